//! What a channel has open, by the names that its client uses.

use std::collections::HashMap;

use crate::ssh::sftp::{MAX_HANDLES, Refusal, Reply};

/// Open handles under names that are never used twice.
#[derive(Debug)]
pub struct Handles<T> {
    kind: &'static str,
    next: u64,
    open: HashMap<String, T>,
}

impl<T> Handles<T> {
    /// None so far; the names will begin with `kind`.
    pub fn new(kind: &'static str) -> Self {
        Self { kind, next: 0, open: HashMap::new() }
    }

    /// Whether one more may be opened.
    pub fn check_room(&self) -> Result<(), Refusal> {
        if self.open.len() < MAX_HANDLES {
            return Ok(());
        }
        Err(Refusal::failure(format!("{MAX_HANDLES} handles are open, close one first")))
    }

    /// Opens a handle.
    pub fn insert(&mut self, item: T) -> Reply {
        let name = format!("{}{}", self.kind, self.next);
        self.next += 1;
        self.open.insert(name.clone(), item);
        Reply::Handle(name)
    }

    /// What is open under `name`.
    pub fn get(&mut self, name: &str) -> Result<&mut T, Refusal> {
        self.open.get_mut(name).ok_or_else(no_handle)
    }

    /// All that is open.
    pub fn all(&self) -> impl Iterator<Item = &T> {
        self.open.values()
    }

    /// Closes all that are to be closed.
    pub fn close_where(&mut self, is_over: impl Fn(&T) -> bool) -> Vec<T> {
        self.open.extract_if(|_, item| is_over(item)).map(|(_, item)| item).collect()
    }

    /// Closes a handle.
    pub fn remove(&mut self, name: &str) -> Result<T, Refusal> {
        self.open.remove(name).ok_or_else(no_handle)
    }
}

fn no_handle() -> Refusal {
    Refusal::failure("no such handle is open")
}
