//! End-to-end tests against a deployed stack.
