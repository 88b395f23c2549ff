//! Defines a finding of the test: a promise that the agent does not keep.

/// A promise that the agent does not keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The kind of fault. In most cases, faults with the same cause have the same kind.
    pub kind: String,
    /// The observed and the expected state.
    pub what: String,
}

pub type Outcome<T = ()> = Result<T, Fault>;

impl Fault {
    pub fn of(kind: &str, what: impl Into<String>) -> Self {
        Self { kind: kind.to_owned(), what: what.into() }
    }
}

pub fn fault<T>(kind: &str, what: impl Into<String>) -> Outcome<T> {
    Err(Fault::of(kind, what))
}
