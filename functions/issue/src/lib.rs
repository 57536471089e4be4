//! `issue` without its composition, so that the simulator runs the very handler that is deployed. No adapter in here.

pub mod handler;
mod measure;
