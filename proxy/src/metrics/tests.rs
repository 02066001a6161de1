//! Names, labels and the opinion of Prometheus's own linter.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use router_config::topology::{ShardId, Slot};

use super::*;

fn filled() -> Arc<Metrics> {
    let metrics = Metrics::new(&[String::from("shard-1"), String::from("shard-2")]).expect("distinct names");
    let shard = metrics.shard(ShardId(1), ServedBy::Replica).expect("the second shard");
    shard.statement(PlanKind::One, Duration::from_micros(300));
    shard.pool_wait(Duration::from_micros(1));
    shard.connected(Duration::from_millis(2));
    shard.conns(ConnState::Idle).inc();
    for code in ["23505", "22P03", "99999", ""] {
        metrics.error(code);
    }
    metrics.cache(Cache::Facts, true);
    metrics.cache(Cache::Statements, false);
    metrics.sessions(SessionState::InTransaction).inc();
    metrics.refused(RefusalClass::of("0A000"));
    metrics.two_phase(Outcome::Committed);
    metrics.two_phase_recovered(Outcome::Aborted);
    metrics.replica_lag("shard-1", "h:1", 5, Duration::from_millis(1500));
    metrics.node_state("shard-1", "h:1", true, false);
    metrics.control_connected(Duration::from_millis(1));
    metrics.slot(Slot(16_383));
    metrics
}

#[test]
fn every_count_is_found_in_the_output() {
    let text = filled().render().expect("UTF-8");
    for line in [
        "gavel_statement_duration_seconds_bucket{plan=\"one\",role=\"replica\",shard=\"shard-2\",le=\"0.0005\"} 1",
        "gavel_errors_total{sqlstate=\"23505\"} 1",
        "gavel_errors_total{sqlstate=\"22xxx\"} 1",
        "gavel_errors_total{sqlstate=\"other\"} 2",
        "gavel_cache_lookups_total{cache=\"facts\",result=\"hit\"} 1",
        "gavel_cache_lookups_total{cache=\"statements\",result=\"miss\"} 1",
        "gavel_sessions{state=\"in_transaction\"} 1",
        "gavel_refused_statements_total{class=\"unsupported\"} 1",
        "gavel_two_phase_total{outcome=\"committed\"} 1",
        "gavel_two_phase_recovered_total{outcome=\"aborted\"} 1",
        "gavel_replica_lag_seconds{node=\"h:1\",shard=\"shard-1\"} 1.5",
        "gavel_slot_group_statements_total{group=\"63\"} 1",
        "gavel_slot_group_statements_total{group=\"00\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "missing {line} in\n{text}");
    }
}

#[test]
fn a_primary_has_no_lag_and_a_node_that_left_has_nothing() {
    let metrics = filled();
    metrics.node_state("shard-1", "h:1", true, true);
    assert!(!metrics.render().expect("UTF-8").contains("gavel_replica_lag_bytes{"));
    metrics.forget_node("shard-1", "h:1");
    assert!(!metrics.render().expect("UTF-8").contains("h:1"));
}

#[test]
fn children_survive_a_reload_of_shards() {
    let metrics = filled();
    let before = metrics.shard(ShardId(1), ServedBy::Replica).expect("there");
    metrics.set_shards(&[String::from("shard-2"), String::from("shard-3")]);
    let after = metrics.shard(ShardId(0), ServedBy::Replica).expect("there");
    assert!(Arc::ptr_eq(&before, &after));
    assert!(metrics.shard(ShardId(2), ServedBy::Primary).is_none());
}

#[test]
fn promtool_has_no_complaints() {
    let text = filled().render().expect("UTF-8");
    let started = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = started.expect("promtool runs: install the package prometheus");
    child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("promtool reads");
    let output = child.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}
