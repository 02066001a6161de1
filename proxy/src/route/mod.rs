//! Where a statement goes. Pure: `plan(&Topology, &Facts, &Values, &SessionView) -> Result<Plan, Refusal>`.
//!
//! Invariant: a plan is correct for every row that the statement may touch, or there is a [`refusal::Refusal`]; no plan
//! rests on a guess. The same inputs give the same plan.

mod array;
pub mod clocks;
pub mod combine;
mod convert;
pub mod copy;
pub mod explain;
pub(crate) mod hint;
pub mod insert;
pub mod key;
mod locate;
pub mod origins;
mod place;
pub mod plan;
pub mod refusal;
mod reshape;
mod several;
mod splice;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod values;

pub use explain::{Explanation, explain};
pub use place::{plan, plan_drawn};
