//! Where a statement goes. Pure: `plan(&Topology, &Facts, &Values, &SessionView) -> Result<Plan, Refusal>`.

pub mod plan;
pub mod refusal;
