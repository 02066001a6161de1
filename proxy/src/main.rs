//! `gavel`: the proxy's binary.

fn main() {}
