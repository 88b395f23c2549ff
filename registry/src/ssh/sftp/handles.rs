//! Keeps the open handles of a channel. The client refers to each handle by a name.

use std::collections::HashMap;

use super::packets::{MAX_HANDLES, Reply, SftpError};

/// The table of open handles. Two handles never have the same name.
#[derive(Debug)]
pub struct HandleTable<T> {
    kind: &'static str,
    next: u64,
    open: HashMap<String, T>,
}

impl<T> HandleTable<T> {
    /// An empty table. All names begin with `kind`.
    pub fn new(kind: &'static str) -> Self {
        Self { kind, next: 0, open: HashMap::new() }
    }

    /// Fails if the channel has too many open handles.
    pub fn check_room(&self) -> Result<(), SftpError> {
        if self.open.len() < MAX_HANDLES {
            return Ok(());
        }
        Err(SftpError::failure(format!("{MAX_HANDLES} handles are open; close one first")))
    }

    /// Opens a handle.
    pub fn insert(&mut self, item: T) -> Reply {
        let name = format!("{}{}", self.kind, self.next);
        self.next += 1;
        self.open.insert(name.clone(), item);
        Reply::Handle(name)
    }

    /// The handle `name`.
    pub fn get(&mut self, name: &str) -> Result<&mut T, SftpError> {
        self.open.get_mut(name).ok_or_else(no_handle)
    }

    /// All open handles.
    pub fn all(&self) -> impl Iterator<Item = &T> {
        self.open.values()
    }

    /// Closes each handle whose item satisfies `is_over`, and returns these items.
    pub fn close_where(&mut self, is_over: impl Fn(&T) -> bool) -> Vec<T> {
        self.open.extract_if(|_, item| is_over(item)).map(|(_, item)| item).collect()
    }

    /// Closes a handle.
    pub fn remove(&mut self, name: &str) -> Result<T, SftpError> {
        self.open.remove(name).ok_or_else(no_handle)
    }
}

fn no_handle() -> SftpError {
    SftpError::failure("no such handle is open")
}
