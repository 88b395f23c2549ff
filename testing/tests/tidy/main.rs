//! Keeps the house: sizes, imports that run one way, libraries in their rooms, names.
//!
//! Each test lists every place that breaks its rule, with advice.

mod imports;
mod language;
mod names;
mod rooms;
mod sizes;
mod source;
