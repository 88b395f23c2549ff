//! Serves the page, the API and the metrics over HTTP.
//!
//! ```text
//! secret       random secrets               access        who may send requests, and from where
//! sessions     logins of one ssh connection  guard         checks each request first
//! shared_state values that requests share    web           the routes
//! serve        one connection                port          listens for `-http`
//! problem      errors as HTTP statuses       live          renders changed sections for browsers
//! live_stream  sends changed sections        login         turns a token into a cookie
//! screens/     the screens                   actions/      changes, each after a confirmation
//! api/         `/api/v1`                     assets        the stylesheet, script and icon
//! monitoring   `/metrics`, `/healthz`, `/readyz`   replay  answers requests from memory
//! ```
//!
//! To read data, the screens and the API call the functions of the verbs. To make a change, they
//! run a command of the console. So the page, the API and the console use the same code for data
//! and for changes.

mod access;
mod actions;
mod api;
mod assets;
mod guard;
mod live;
mod live_stream;
mod login;
mod monitoring;
mod port;
mod problem;
mod replay;
mod response_headers;
mod screens;
mod secret;
mod serve;
mod sessions;
mod shared_state;
mod web;

pub use self::access::{Access, PortAccess};
pub use self::port::serve as serve_port;
pub use self::replay::replay;
pub use self::serve::serve as serve_stream;
pub use self::sessions::{Login, Sessions};
pub use self::web::Web;
