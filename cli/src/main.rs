//! Operator commands of firstcome.

fn main() {}
