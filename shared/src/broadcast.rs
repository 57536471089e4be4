//! Telling open sockets something: the engine that posts, and the use cases of function `broadcast` on top of it.
//! Nothing here knows API Gateway or the queues beyond their ports.

mod announce;
mod deliver;
mod engine;
mod fan_out;
mod limiter;
mod page;
mod poster;
mod stock;
#[cfg(test)]
mod tests;

pub use announce::*;
pub use deliver::*;
pub use engine::*;
pub use fan_out::*;
pub use page::*;
pub use poster::*;
pub use stock::*;
