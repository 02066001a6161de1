//! An innocent session that asks all the time and knows the answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use tests::wire::{Login, Wire};

pub(crate) struct Witness {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64, String>>,
}

impl Witness {
    /// Logs in and begins to ask.
    pub(crate) fn start(login: &Login) -> Self {
        let mut wire = Wire::login(login).expect("the witness logs in before the abuse");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut asked = 0;
            while !stopped.load(Ordering::Relaxed) || asked == 0 {
                asked += 1;
                let answer = wire
                    .rows(&format!("select {asked} * 2, 'witness'"))
                    .map_err(|error| error.to_string())?;
                if answer != [[Some((asked * 2).to_string()), Some("witness".to_owned())]] {
                    return Err(format!("question {asked} was answered {answer:?}"));
                }
            }
            Ok(asked)
        });
        Self { stop, thread }
    }

    /// How many questions were answered, all of them rightly.
    pub(crate) fn stop(self) -> Result<u64, String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "the witness panicked".to_owned())?
    }
}
