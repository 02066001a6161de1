//! The same random statements on plain PostgreSQL and through the proxy: what the application is told is equal, or refused for
//! a reason that `docs/sql-support.md` lists.
//!
//! `GAVEL_CASES` is the number of cases for each size of cluster, `GAVEL_SEED` the first seed: schema, rows and cases follow
//! from it, so that the same two numbers repeat a run; `GAVEL_CASE` runs one of its cases alone. `make soak` goes on with other
//! seeds for `GAVEL_MINUTES`.

use std::time::{Duration, Instant, SystemTime};

use tests::cluster::{Cluster, login_of};
use tests::random::Random;

use crate::case::{Case, Class};
use crate::rates::Rates;
use crate::sides::{Sides, Verdict};

mod case;
mod catalog;
mod copy;
mod expr;
mod house;
mod judge;
mod nested;
mod rates;
mod recorded;
mod select;
mod session;
mod sides;
mod together;
mod traps;
mod values;
mod write;

/// Cases for each size of cluster, unless the environment says another number.
const CASES: u64 = 600;
/// Of a round of the long run.
const CASES_OF_A_ROUND: u64 = 5_000;
/// How long the long run goes on, unless the environment says another number.
const MINUTES: u64 = 30;
/// After so many cases the tables are compared.
const LOOK_EVERY: u64 = 50;
/// Wrong cases after which there is no use in going on.
const ENOUGH: usize = 25;

/// Of the cases of [`CASES`] and the first seed, how many of 100 are answered on several shards. A change that answers more
/// raises them; none lowers them.
const FLOORS: [(Class, f64); 10] = [
    (Class::Points, 98.0),
    (Class::Joins, 100.0),
    (Class::Aggregates, 100.0),
    (Class::Ordering, 100.0),
    (Class::WindowsAndSets, 100.0),
    (Class::Subqueries, 100.0),
    (Class::Writes, 98.0),
    (Class::Copy, 98.0),
    (Class::Catalog, 100.0),
    (Class::Transactions, 96.0),
];

/// What a server is at.
const ACTIVITY: &str = "select concat_ws(' ', pid, state, wait_event_type, wait_event, now() - query_start, query) \
                        from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()";

/// On one shard nothing needs to be refused.
const FLOOR_OF_ONE_SHARD: f64 = 100.0;

fn draw(random: &mut Random) -> Case {
    let class = random.pick(&Class::ALL);
    if random.chance(40)
        && let Some(case) = traps::trap(class, random)
    {
        return case;
    }
    match class {
        Class::Points => select::point(random),
        Class::Joins => select::join(random),
        Class::Aggregates => select::grouped(random),
        Class::Ordering => select::sorted(random),
        Class::WindowsAndSets => nested::windows_and_sets(random),
        Class::Subqueries => nested::subquery(random),
        Class::Writes => write::write(random),
        Class::Copy => copy::copy(random),
        Class::Catalog => catalog::catalog(random),
        Class::Transactions => session::transaction(random),
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs so many cases on a cluster of that size, from a seed on.
#[allow(clippy::print_stdout, reason = "what is refused is shown to whoever asks for it")]
async fn compare(shards: usize, first: u64, cases: u64) -> Rates {
    let cluster = Cluster::builder().shards(shards).config_extra(house::FUNCTIONS).start().await;
    let oracle = Cluster::oracle().await;
    let runtime = tokio::runtime::Handle::current();
    let activity = || {
        let asked = || runtime.block_on(cluster.on_each_primary(ACTIVITY));
        format!("    the shards: {:#?}", tokio::task::block_in_place(asked))
    };
    let mut sides = Sides::new([cluster.login(), login_of(&oracle)], shards > 1, activity);
    for sql in house::schema().into_iter().chain(house::rows(&mut Random::new(first))) {
        sides.set_up(&sql);
    }
    sides.anew();
    let mut rates = Rates::default();
    let only = setting("GAVEL_CASE");
    for seed in (first..first + cases).filter(|seed| only.is_none_or(|only| only == *seed)) {
        let case = draw(&mut Random::new(seed));
        rates.ran(case.steps.len());
        match sides.judge(&case) {
            Verdict::Same { failed } => rates.same(case.class, failed),
            Verdict::Refused(reason) => {
                if setting("GAVEL_SHOW_REFUSED").is_some() {
                    println!("refused: {seed} {reason}: {:?}", case.steps);
                }
                rates.refused(case.class, reason);
            }
            Verdict::Wrong(how) => {
                let how = format!("case {seed} from {first} on, {shards} shards, {:?}: {how}", case.class);
                rates.wrong(case.class, how);
            }
        }
        if (seed + 1 - first).is_multiple_of(LOOK_EVERY)
            && let Some(how) = sides.differing_table()
        {
            rates.wrong.push(format!("after case {seed} from {first} on, {shards} shards: {how}"));
            break;
        }
        if rates.wrong.len() >= ENOUGH {
            break;
        }
    }
    rates
}

#[allow(clippy::print_stdout, reason = "the rates are what one runs it for")]
async fn check(shards: usize) {
    let (seed, cases) = (setting("GAVEL_SEED"), setting("GAVEL_CASES"));
    let rates = compare(shards, seed.unwrap_or(1), cases.unwrap_or(CASES)).await;
    println!("{}", rates.table(&format!("{shards} shards")));
    assert!(rates.wrong.is_empty(), "{} wrong:\n\n{}", rates.wrong.len(), rates.wrong.join("\n\n"));
    if seed.is_none() && cases.is_none() {
        let floors =
            FLOORS.map(|(class, floor)| (class, if shards == 1 { FLOOR_OF_ONE_SHARD } else { floor }));
        assert_eq!(rates.below(&floors), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_shard_answers_as_postgresql() {
    check(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_shards_answer_as_postgresql() {
    check(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_shards_answer_as_postgresql() {
    check(4).await;
}

/// `make soak`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "runs until its time is over"]
#[allow(clippy::print_stdout, reason = "the seeds and the rates are what one runs it for")]
async fn long_run() {
    let until = Instant::now() + Duration::from_secs(60 * setting("GAVEL_MINUTES").unwrap_or(MINUTES));
    let now = SystemTime::UNIX_EPOCH.elapsed().expect("it is after 1970");
    let mut seed = setting("GAVEL_SEED").unwrap_or_else(|| now.as_secs() * 1_000_000);
    let cases = setting("GAVEL_CASES").unwrap_or(CASES_OF_A_ROUND);
    let mut sums = [(4, Rates::default()), (2, Rates::default()), (1, Rates::default())];
    let mut wrong = 0;
    while Instant::now() < until && wrong < ENOUGH {
        for (shards, sum) in &mut sums {
            println!("GAVEL_SEED={seed} GAVEL_CASES={cases}, {shards} shards");
            let rates = compare(*shards, seed, cases).await;
            for how in &rates.wrong {
                println!("\nWRONG: {how}\n");
            }
            wrong += rates.wrong.len();
            sum.add(rates);
            seed += cases;
        }
    }
    for (shards, sum) in &sums {
        println!("{}", sum.table(&format!("{shards} shards")));
    }
    assert_eq!(wrong, 0, "wrong answers, above");
}
