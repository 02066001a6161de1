//! The small built-in load: a handful of bidders who place bids through the proxy.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_postgres::{Client, Config, NoTls};

use super::house::{AUCTIONS, USERS};
use crate::sql_error::describe;

/// Bidders at once: enough to show life, few enough to leave the machine to the person in front of it.
const BIDDERS: usize = 4;
/// A bidder's pause between bids, in milliseconds: from, to.
const PAUSE_MILLIS: std::ops::Range<u64> = 10..40;
/// After a failure.
const RETRY: Duration = Duration::from_millis(500);
/// Every third bid goes to one of this many auctions: those about to end.
const HOT_AUCTIONS: i64 = 10;

/// What the load has done so far.
#[derive(Debug, Default)]
pub(super) struct Counters {
    placed: AtomicU64,
    failed: AtomicU64,
    last_failure: Mutex<Option<String>>,
}

impl Counters {
    /// Bids placed.
    pub(super) fn placed(&self) -> u64 {
        self.placed.load(Ordering::Relaxed)
    }

    /// Bids that failed, and why the last one did.
    pub(super) fn failures(&self) -> (u64, Option<String>) {
        let last = self.last_failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (self.failed.load(Ordering::Relaxed), last)
    }

    fn fail(&self, error: &tokio_postgres::Error) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(describe(error).replace("\n ", ","));
    }
}

/// The running load; dropping it ends the bidders.
#[derive(Debug)]
pub(super) struct Load {
    /// What it has done.
    pub(super) counters: Arc<Counters>,
    _bidders: JoinSet<()>,
}

impl Load {
    /// Lets the bidders in.
    pub(super) fn start(config: &Config) -> Self {
        let counters = Arc::<Counters>::default();
        let mut bidders = JoinSet::new();
        for _ in 0..BIDDERS {
            bidders.spawn(bidder(config.clone(), Arc::clone(&counters)));
        }
        Self { counters, _bidders: bidders }
    }
}

/// Bids for ever; a failure is counted and costs the connection.
async fn bidder(config: Config, counters: Arc<Counters>) {
    loop {
        if let Err(error) = session(&config, &counters).await {
            counters.fail(&error);
            sleep(RETRY).await;
        }
    }
}

async fn session(config: &Config, counters: &Counters) -> Result<(), tokio_postgres::Error> {
    let (mut client, connection) = config.connect(NoTls).await?;
    // Ends by itself when the client is dropped.
    tokio::spawn(connection);
    loop {
        place_bid(&mut client).await?;
        counters.placed.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_millis(rand::random_range(PAUSE_MILLIS))).await;
    }
}

/// One bid, as an application places it: the auction's row is the lock, the bid is its history.
async fn place_bid(client: &mut Client) -> Result<(), tokio_postgres::Error> {
    let auction = match rand::random_range(0..3) {
        0 => rand::random_range(1..=HOT_AUCTIONS),
        _ => rand::random_range(1..=AUCTIONS),
    };
    let bidder = rand::random_range(1..=USERS);
    let transaction = client.transaction().await?;
    let raise = "UPDATE auctions SET price = price + 1, version = version + 1 WHERE auction_id = $1 \
                 RETURNING price::text";
    let row = transaction.query_one(raise, &[&auction]).await?;
    let amount: String = row.get(0);
    let bid = "INSERT INTO bids (auction_id, bidder_id, amount) VALUES ($1, $2, $3::text::numeric)";
    transaction.execute(bid, &[&auction, &bidder, &amount]).await?;
    transaction.commit().await
}
