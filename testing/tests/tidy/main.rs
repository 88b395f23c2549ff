//! Checks the order of the source code: sizes of files, directions of imports, folders for
//! libraries, names, and language.
//!
//! Each test lists every place that breaks its rule, with advice.

mod imports;
mod language;
mod names;
mod rooms;
mod sizes;
mod source;
