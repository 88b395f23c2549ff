//! Checks rules for the source code: the sizes of files, the directions of imports, the folders
//! that may use a library, the names of files, and the language.
//!
//! Each test lists every place that breaks its rule.

mod imports;
mod language;
mod names;
mod rooms;
mod sizes;
mod source;
