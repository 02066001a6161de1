//! End to end: unchanged applications on a sharded cluster of real servers.

mod cancel;
mod console;
mod constraints;
mod cursors;
mod deadlocks;
mod demo;
mod drift;
mod house;
mod inserts;
mod key_types;
mod leavings;
mod life;
mod listen;
mod lost;
mod oids;
mod own_catalog;
mod pitfalls;
mod pools;
mod replicas;
mod routing;
mod session;
mod set_off;
mod settings;
mod spread;
mod times;
mod waits;
