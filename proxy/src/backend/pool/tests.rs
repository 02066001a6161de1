//! What is at hand, who waits, and what becomes of pools that nobody uses: against a real server.

use router_config::settings::{BackendTls, Settings};

use super::*;
use crate::backend::connect::Credentials;
use crate::testing::postgres::{Server, server};

async fn leased(pool: &Arc<Pool>) -> Result<Lease, LeaseError> {
    pool.lease().await.map(|lease| lease.expect("the pool is open"))
}

const ONE: PoolLimits = PoolLimits {
    size: 1,
    wait: Duration::from_secs(30),
    max_lifetime: Duration::from_secs(3600),
    idle: Duration::ZERO,
    min_idle: 0,
};

/// A pool of one conn.
fn pool_of_one(server: &Server) -> Arc<Pool> {
    pool_with(server, ONE)
}

fn pool_with(server: &Server, limits: PoolLimits) -> Arc<Pool> {
    let key = PoolKey {
        user: "postgres".to_owned(),
        database: "postgres".to_owned(),
        node: server.tcp(),
        combines: false,
    };
    let login = BackendLogin {
        user: "postgres".into(),
        database: "postgres".into(),
        credentials: Credentials::None,
        parameters: Vec::new(),
    };
    let mut settings = Settings::default();
    settings.backend.tls = BackendTls::Off;
    let context = ConnectContext::from_settings(&settings).expect("nothing to read");
    Arc::new(Pool::new(key, login, Arc::new(context), limits))
}

#[tokio::test]
async fn a_conn_that_comes_back_is_at_hand_unless_somebody_waits() {
    let server = server();
    let pool = pool_of_one(&server);
    assert!(pool.lease_at_hand(Instant::now()).is_none(), "none is open");
    let first = leased(&pool).await.expect("it opens");
    let process = first.process_id;
    drop(first);
    let again = pool.lease_at_hand(Instant::now()).expect("it came back");
    assert_eq!((again.process_id, pool.status().active, pool.status().idle), (process, 1, 0));

    let waiting = tokio::spawn({
        let pool = Arc::clone(&pool);
        async move { leased(&pool).await }
    });
    while pool.status().waiting == 0 {
        tokio::task::yield_now().await;
    }
    drop(again);
    assert!(pool.lease_at_hand(Instant::now()).is_none(), "it is whose turn it is");
    let next = waiting.await.expect("no panic").expect("a lease");
    assert_eq!(next.process_id, process);
}

#[tokio::test]
async fn what_is_at_hand_is_aged_reaped_and_closed_like_the_others() {
    let server = server();
    let pool = pool_of_one(&server);
    drop(leased(&pool).await.expect("it opens"));
    let old = Instant::now() + Duration::from_secs(2 * 3600);
    assert!(pool.lease_at_hand(old).is_none(), "past its lifetime");
    assert_eq!(pool.status().idle, 0);

    drop(leased(&pool).await.expect("another opens"));
    // Used since the last look, then not used for longer than the limit of zero.
    pool.reap();
    assert_eq!(pool.status().idle, 1);
    pool.reap();
    assert_eq!(pool.status().idle, 0);

    let lent = leased(&pool).await.expect("another opens");
    pool.close();
    drop(lent);
    assert!(pool.lease_at_hand(Instant::now()).is_none(), "closed");
    assert_eq!(pool.status().idle, 0);
}

#[tokio::test]
async fn a_conn_that_its_node_has_closed_is_not_idle_for_long() {
    let server = server();
    let pool =
        pool_with(&server, PoolLimits { idle: Duration::from_secs(3600), size: 2, min_idle: 2, ..ONE });
    let (ended, killer) =
        (leased(&pool).await.expect("it opens"), leased(&pool).await.expect("another opens"));
    let process = ended.process_id;
    drop(ended);
    pool.reap();
    assert_eq!(pool.status().idle, 1, "it is well");
    server.end_backend(process);
    tokio::time::timeout(Duration::from_secs(10), async {
        while pool.status().idle > 0 {
            // The socket's news come between two turns of the runtime.
            tokio::task::yield_now().await;
            pool.reap();
        }
    })
    .await
    .expect("it goes, whatever min_idle says");
    drop(killer);
    pool.reap();
    assert_eq!(pool.status().idle, 1, "the other one stays");
}

#[tokio::test]
async fn a_pool_that_nobody_uses_is_forgotten() {
    let server = server();
    let pools = Pools::default();
    let make = || Arc::into_inner(pool_of_one(&server)).expect("nobody else has it");
    let key = pool_of_one(&server).key().clone();
    let (pool, _) = pools.get(&key, make);
    pools.sweep();
    assert_eq!(pools.all().len(), 1, "somebody has it");
    drop(leased(&pool).await.expect("it opens"));
    drop(pool);
    pools.sweep();
    assert_eq!(pools.all().len(), 1, "it has a conn");
    pools.all().iter().for_each(|pool| pool.close_idle());
    pools.sweep();
    assert!(pools.all().is_empty());
}

#[tokio::test]
async fn who_waits_in_a_pool_is_told_when_it_is_closed() {
    let server = server();
    let pool = pool_of_one(&server);
    let lent = leased(&pool).await.expect("it opens");
    let waiting = tokio::spawn({
        let pool = Arc::clone(&pool);
        async move { pool.lease().await }
    });
    while pool.status().waiting == 0 {
        tokio::task::yield_now().await;
    }
    pool.close();
    assert!(waiting.await.expect("no panic").expect("no error").is_none());
    drop(lent);
}
