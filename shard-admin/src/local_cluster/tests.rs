//! Clusters of real servers: they come up, follow, stop, die and leave nothing behind.

use super::process::processes_in;
use super::*;

fn quick() -> ClusterBuilder {
    ClusterBuilder::new().fsync(false)
}

fn running(directories: &[PathBuf]) -> usize {
    directories.iter().map(|directory| processes_in(directory).len()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_streams_and_leaves_nothing() {
    let cluster = quick().shards(2).replicas(1).start().await.expect("start");
    let directory = cluster.directory().to_owned();
    let data_dirs: Vec<_> = cluster.nodes().map(|node| node.data_dir.clone()).collect();
    assert_eq!(data_dirs.len(), 4);
    cluster
        .execute_everywhere("postgres", "CREATE TABLE t (a int); INSERT INTO t VALUES (1)")
        .await
        .expect("write");
    let mut identifiers = Vec::new();
    for shard in &cluster.shards {
        let primary = shard.primary.connect("postgres").await.expect("connect");
        let row =
            primary.query_one("SELECT system_identifier FROM pg_control_system()", &[]).await.expect("query");
        identifiers.push(row.get::<_, i64>(0));
        let row = primary
            .query_one("SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'", &[])
            .await
            .expect("query");
        let verifier: String = row.get(0);
        assert!(verifier.starts_with("SCRAM-SHA-256$4096:"), "{verifier}");
    }
    assert_ne!(identifiers[0], identifiers[1], "shards must be told apart");
    drop(cluster);
    assert!(!directory.exists());
    assert_eq!(running(&data_dirs), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_stops_dies_restarts_and_a_replica_is_promoted() {
    let cluster = quick().replicas(1).start().await.expect("start");
    let shard = &cluster.shards[0];
    shard
        .primary
        .execute("postgres", "CREATE TABLE t (a int); INSERT INTO t VALUES (1)")
        .await
        .expect("write");
    shard.primary.stop(StopMode::Fast).await.expect("stop");
    assert_eq!(shard.primary.pid(), None);
    assert!(shard.primary.connect("postgres").await.is_err());
    shard.primary.start().await.expect("start again");
    shard.primary.kill().await.expect("kill");
    assert_eq!(processes_in(&shard.primary.data_dir), Vec::<u32>::new());
    let replica = &shard.replicas[0];
    replica.promote().await.expect("promote");
    replica.execute("postgres", "INSERT INTO t VALUES (2)").await.expect("write on the promoted one");
    assert!(shard.primary.log().contains("database system is ready to accept connections"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_given_directory_stays_and_its_cluster_goes_on() {
    let root = tempfile::tempdir().expect("temporary directory");
    account::set_mode(root.path(), 0o755).expect("chmod");
    let given = root.path().join("nodes");
    let start = || quick().replicas(1).data_dir(&given).start();
    let cluster = start().await.expect("start");
    cluster.create_database("house").await.expect("create");
    cluster.execute_everywhere("house", "CREATE TABLE t (a int)").await.expect("create");
    cluster.stop().await.expect("stop");
    drop(cluster);
    let cluster = start().await.expect("start again");
    cluster.create_database("house").await.expect("already there");
    cluster.shards[0].replicas[0]
        .execute("house", "SELECT a FROM t")
        .await
        .expect("the table is still there");
    drop(cluster);
    let error = quick().shards(2).data_dir(&given).start().await.expect_err("another shape");
    assert!(matches!(error, Error::OtherShape { shards: 1, replicas: 1, .. }), "{error}");
    std::fs::remove_file(given.join("cluster.json")).expect("remove");
    let error = quick().data_dir(&given).start().await.expect_err("not empty");
    assert!(matches!(error, Error::NotEmpty { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cached_templates_give_a_standalone_server_that_wants_a_password() {
    let cache = tempfile::tempdir().expect("temporary directory");
    for _ in 0..2 {
        let cluster = quick().template_cache(cache.path()).start().await.expect("start");
        let node = &cluster.shards[0].primary;
        node.execute("postgres", "SELECT 1").await.expect("the right password");
        let wrong = node.config("postgres").password("wrong").connect(tokio_postgres::NoTls).await;
        assert!(wrong.is_err());
    }
    assert_eq!(std::fs::read_dir(cache.path()).expect("read").count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_belongs_to_one_run_at_a_time() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).expect("chmod");
    let first = quick().data_dir(directory.path()).start().await.expect("start");
    let settings = first.shards[0].primary.data_dir.join("gavel.conf");
    let before = std::fs::read_to_string(&settings).expect("read");
    let error = quick().data_dir(directory.path()).start().await.expect_err("it is in use");
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    assert_eq!(std::fs::read_to_string(&settings).expect("read"), before, "nothing is touched");
    drop(first);
    quick().data_dir(directory.path()).start().await.expect("it is free again");
}
