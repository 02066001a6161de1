//! The program `gavel` as a person or a supervisor runs it: exit statuses, its variable of the environment, signals at a bad time.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use shard_admin::local_cluster::ReservedPort;
use tests::cluster::program;

fn gavel() -> Command {
    let mut command = Command::new(program("gavel"));
    command.env_remove("GAVEL_CONFIG").env_remove("GAVEL_LOG").stdin(Stdio::null());
    command
}

/// Its status, and what it says on standard error.
fn said(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn exit_statuses_are_those_of_the_help() {
    let run = |arguments: &[&str]| said(&gavel().args(arguments).output().expect("run"));
    let (status, text) = run(&["--config", "/nonexistent/gavel.toml"]);
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("cannot read /nonexistent/gavel.toml"), "{text}");
    assert_eq!(run(&["--config", "/"]).0, Some(1));
    assert_eq!(run(&["--nonsense"]).0, Some(2));
    assert_eq!(run(&["config", "--check", "/nonexistent/gavel.toml"]).0, Some(2));
    assert_eq!(run(&["config", "--example"]), (Some(0), String::new()));
    assert_eq!(run(&["route", "--config", "/nonexistent/gavel.toml", "select 1"]).0, Some(2));
}

#[test]
fn an_empty_variable_is_as_if_it_were_not_set() {
    let run =
        |arguments: &[&str]| said(&gavel().env("GAVEL_CONFIG", "").args(arguments).output().expect("run"));
    assert_eq!(run(&["config", "--example"]), (Some(0), String::new()));
    let (status, text) = run(&["route", "select 1"]);
    assert_eq!(status, Some(2), "{text}");
    assert!(text.contains("--config FILE is missing"), "{text}");
    assert_eq!(run(&[]).0, Some(2), "help, or what is missing");
    let set = gavel().env("GAVEL_CONFIG", "/nonexistent/gavel.toml").output().expect("run");
    assert!(said(&set).1.contains("cannot read /nonexistent/gavel.toml"), "{set:?}");
}

#[test]
fn a_proxy_that_waits_for_its_first_shard_can_be_ended() {
    let [listen, nobody] = [(); 2].map(|()| ReservedPort::any().expect("a port"));
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("gavel.toml");
    let text = format!(
        "[listen]\naddress = \"127.0.0.1:{}\"\n[[databases]]\nname = \"*\"\nkind = \"first_shard\"\n\
         [[shards]]\nname = \"s\"\nprimary = \"127.0.0.1:{}\"\n",
        listen.number(),
        nobody.number()
    );
    std::fs::write(&file, text).expect("written");
    let mut child =
        gavel().arg("--config").arg(&file).stderr(Stdio::piped()).spawn().expect("the proxy runs");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("waiting for the primary of the first shard")));
    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill");
    assert!(killed.success());
    let rest: Vec<String> = lines.collect();
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(0), "{rest:?}");
    assert!(rest.iter().any(|line| line.contains("asked to end while starting")), "{rest:?}");
}
