//! End to end: unchanged applications on a sharded cluster of real servers.

mod cancel;
mod console;
mod demo;
mod house;
mod life;
mod listen;
mod pitfalls;
mod replicas;
mod routing;
mod session;
mod settings;
mod spread;
