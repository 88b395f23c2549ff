//! What the test finds: a promise that does not hold.

/// A promise that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Of what kind: the same for the same cause, mostly.
    pub kind: String,
    /// What was seen, and what was wanted.
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
