//! End to end: unchanged applications on a sharded cluster of real servers.

mod console;
mod demo;
mod drift;
mod house;
mod life;
mod oids;
mod replicas;
mod routing;
mod session;
mod spread;
