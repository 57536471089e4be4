//! The client with the system's allocator.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    firstcome_bench::client::main()
}
