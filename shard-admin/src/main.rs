//! `shard-admin`: the DBA's tool.

fn main() {}
