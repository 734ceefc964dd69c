// SPDX-License-Identifier: GPL-2.0
//! Ends a system call that may take forever, after some time or if the user says so.
//!
//! The kernel tries to take memory offline until it succeeds, or a signal is pending. So signals
//! have handlers here, which do nothing but say that they came: the call fails with EINTR, and
//! what was half done can be undone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use signal_hook::SigId;
use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGTERM};

/// From its beginning on signals interrupt, and do not end the process: what is left of the
/// command is short.
pub struct Interrupt {
    by_user: Arc<AtomicBool>,
    by_time: Arc<AtomicBool>,
    handlers: Vec<SigId>,
}

impl Interrupt {
    pub fn new() -> Result<Self, String> {
        let (by_user, by_time) = (Arc::default(), Arc::default());
        let mut this = Self {
            by_user,
            by_time,
            handlers: Vec::new(),
        };
        for signal in [SIGHUP, SIGINT, SIGTERM, SIGALRM] {
            let flag = match signal {
                SIGALRM => Arc::clone(&this.by_time),
                _ => Arc::clone(&this.by_user),
            };
            let handler = signal_hook::flag::register(signal, flag)
                .map_err(|error| format!("cannot handle signals: {error}"))?;
            this.handlers.push(handler);
        }
        Ok(this)
    }

    /// Interrupts the main thread after some time, again and again: the first signal may come
    /// just before the system call.
    pub fn after(&self, time: Duration) -> Timer {
        self.by_time.store(false, Ordering::Relaxed);
        let (end, ended) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut next = time;
            while ended.recv_timeout(next) == Err(RecvTimeoutError::Timeout) {
                let _ = kill_process(getpid(), Signal::ALARM);
                next = Duration::from_millis(100);
            }
        });
        Timer {
            end: Some(end),
            thread: Some(thread),
        }
    }

    /// Returns true if a signal came that asks the process to end.
    pub fn by_user(&self) -> bool {
        self.by_user.load(Ordering::Relaxed)
    }

    /// Why a call was interrupted, as a part of a sentence.
    pub fn cause(&self, time: Duration) -> Option<String> {
        if self.by_user() {
            return Some("a signal ended the attempt".to_owned());
        }
        let over = self.by_time.load(Ordering::Relaxed);
        over.then(|| format!("it did not succeed within {} s", time.as_secs()))
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            signal_hook::low_level::unregister(handler);
        }
    }
}

/// Dropped, it interrupts no more.
pub struct Timer {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Timer {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn time_runs_out() {
        let interrupt = Interrupt::new().unwrap();
        let time = Duration::from_millis(10);
        let timer = interrupt.after(time);
        // Any thread may get the signal here; in the program there is one.
        let (mut one, other) = UnixStream::pair().unwrap();
        one.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        while interrupt.cause(time).is_none() {
            let _ = one.set_read_timeout(Some(Duration::from_millis(10)));
            let _ = one.read(&mut [0]);
        }
        drop(timer);
        drop(other);
        assert!(interrupt.cause(time).unwrap().contains("within 0 s"));
    }
}
