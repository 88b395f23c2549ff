//! Spelling of flags.
