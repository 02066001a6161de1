//! Names, labels and the opinion of Prometheus's own linter.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use router_config::key::KeyValue;
use router_config::topology::{KeyRange, ShardId, Slot};

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
    metrics.node_state("shard-1", "h:1", true, NodeRole::Replica);
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
    metrics.node_state("shard-1", "h:1", true, NodeRole::Stale);
    let text = metrics.render().expect("UTF-8");
    assert!(text.contains("gavel_node_up{node=\"h:1\",shard=\"shard-1\"} 1"), "{text}");
    assert!(!text.contains("gavel_replica_lag_bytes{"), "an old primary follows nobody: {text}");
    metrics.replica_lag("shard-1", "h:1", 5, Duration::from_millis(1500));
    metrics.node_state("shard-1", "h:1", true, NodeRole::Primary);
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

/// The series that rules look at with increase() and rate() and name a label of, as they stand in the output.
fn watched(rules: &str) -> Vec<String> {
    let calls = ["increase(", "rate("].into_iter().flat_map(|call| rules.split(call).skip(1));
    let series = calls.filter_map(|rest| rest.split('[').next()).filter(|series| !series.contains("_bucket"));
    series.map(|series| series.replace(", ", ",")).collect()
}

#[test]
fn what_alerts_watch_for_an_increase_begins_with_zero() {
    let metrics = Metrics::new(&[String::from("shard-1")]).expect("a name");
    let text = metrics.render().expect("UTF-8");
    let rules = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docker/alerts.yml"));
    let watched = watched(&rules.expect("readable"));
    assert!(watched.iter().any(|series| series.contains("08007")), "{watched:?}");
    for series in watched {
        let from = series.trim_end_matches('}');
        let there = |line: &str| line.starts_with(from) && line.ends_with(" 0");
        assert!(text.lines().any(there), "{series} is not in\n{text}");
    }
}

#[test]
fn a_changed_placement_takes_the_place_of_the_old_one() {
    let metrics = filled();
    let shown = |metrics: &Metrics| -> Vec<String> {
        let text = metrics.render().expect("UTF-8");
        text.lines().filter(|line| line.starts_with("gavel_placement_info")).map(str::to_owned).collect()
    };
    assert!(shown(&metrics).is_empty(), "the map is not loaded yet");
    let mut topology = Topology::new(Vec::new());
    let mut seen = Vec::new();
    for epoch in [1, 2] {
        topology.epoch = epoch;
        topology.slot_map[0] = ShardId(u16::try_from(epoch).expect("small"));
        topology.key_overrides.insert(KeyValue::Int(7), ShardId(0));
        topology.range_overrides.push(KeyRange { from: Some(KeyValue::Int(7)), to: None, shard: None });
        metrics.topology("0123abcd", &topology);
        let expected = format!(
            "gavel_placement_info{{cluster=\"0123abcd\",fingerprint=\"{}\"}} 1",
            topology.fingerprint()
        );
        assert_eq!(shown(&metrics), [expected.as_str()]);
        assert!(metrics.render().expect("UTF-8").contains(&format!("gavel_topology_epoch {epoch}")));
        seen.push(expected);
    }
    assert_ne!(seen[0], seen[1]);
}

/// Rules over series of which it is known what must fire: docker/alerts.test.yml.
#[test]
fn alerts_fire_when_they_should() {
    let output = Command::new("promtool")
        .args(["test", "rules", concat!(env!("CARGO_MANIFEST_DIR"), "/../docker/alerts.test.yml")])
        .output()
        .expect("promtool runs: install the package prometheus");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
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
