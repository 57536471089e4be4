//! The domain of firstcome.
