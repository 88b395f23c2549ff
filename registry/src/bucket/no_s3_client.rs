//! Takes the place of the client in a program that was built without the feature `bucket`.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use jiff::Timestamp;

use super::address::BucketAddress;
use super::health::Health;
use crate::error::{Error, Result};

/// A client that nothing can make.
#[derive(Debug)]
pub(super) struct Client {
    never: Infallible,
    pub(super) health: Health,
}

pub(super) type Pieces = BoxStream<'static, Result<Bytes>>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) place: String,
    pub(super) bytes: u64,
    pub(super) modified: Timestamp,
}

#[derive(Debug, Default)]
pub(super) struct ListPage {
    pub(super) objects: Vec<Listed>,
    pub(super) next: Option<String>,
}

#[derive(Debug)]
pub(super) struct Part;

/// Defines methods that nothing can call.
macro_rules! never {
    ($($name:ident($($type:ty),*) -> $result:ty;)*) => {
        $(#[expect(clippy::unused_async, reason = "the real method is async")]
        pub(super) async fn $name(&self, $(_: $type),*) -> Result<$result> {
            match self.never {}
        })*
    };
}

impl Client {
    pub(super) fn new(_: &BucketAddress) -> Result<Self> {
        let why = "this program was built without the feature bucket";
        Err(Error::Invalid(format!("{why}, so it cannot use -bucket")))
    }

    pub(super) fn address(&self) -> &BucketAddress {
        match self.never {}
    }

    never! {
        put(&str, Bytes) -> ();
        begin_parts(&str) -> String;
        put_part(&str, &str, usize, Bytes) -> Part;
        end_parts(&str, &str, Vec<Part>) -> ();
        abort_parts(&str, &str) -> ();
        length(&str) -> Option<u64>;
        get(&str, u64) -> Option<Pieces>;
        get_small(&str) -> Option<Bytes>;
        delete(&str) -> ();
        list(&str, Option<String>) -> ListPage;
    }
}
