//! Keeps the registry's last offer. The watch writes the offer, and the polling loop and the cycle
//! read the offer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deploy_store::Digest;
use deploy_wire::fleet::Offer;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Longest time that an agent waits for the start time of an offer.
const LONGEST_START: Duration = Duration::from_secs(60 * 60);

/// What a watch has received.
#[derive(Debug, Clone, Default)]
pub struct Received {
    /// The registry's last offer.
    pub offer: Option<Arc<Offer>>,
    /// Number of received offers. An offer that is equal to the offer before it does not count.
    pub count: u64,
    /// Whether a watch is live. While a watch is live, changes arrive without a poll.
    pub is_live: bool,
    /// Whether an offer has arrived, or the agent knows that no offer will arrive soon.
    pub is_settled: bool,
    /// The time from which the agent may act on the offer; `None` if the agent may act immediately.
    start: Option<Instant>,
}

/// The registry's last offer, and the state of the watch. Clones share these data.
#[derive(Debug, Clone, Default)]
pub struct Offers {
    received: watch::Sender<Received>,
    by_sftp: Arc<AtomicBool>,
}

impl Offers {
    /// Records a received offer. Returns whether the offer differs from the offer before it.
    pub fn take(&self, offer: Offer) -> bool {
        let wait = Duration::from_millis(offer.start_after_ms).min(LONGEST_START);
        let mut is_new = false;
        self.received.send_modify(|received| {
            (received.is_live, received.is_settled) = (true, true);
            let same = |before: &Arc<Offer>| {
                **before == Offer { start_after_ms: before.start_after_ms, ..offer.clone() }
            };
            is_new = !received.offer.as_ref().is_some_and(same);
            if is_new {
                received.offer = Some(Arc::new(offer));
                received.count += 1;
                received.start = (!wait.is_zero()).then(|| Instant::now() + wait);
            }
        });
        is_new
    }

    /// Records that the watch is lost, so that no offer will arrive for a while.
    pub fn lose(&self) {
        self.received.send_if_modified(|received| {
            let changes = received.is_live || !received.is_settled;
            (received.is_live, received.is_settled) = (false, true);
            changes
        });
    }

    /// Records that the registry sends no offers, and discards an offer that an earlier registry
    /// sent.
    pub fn clear(&self) {
        self.received.send_modify(|received| {
            *received = Received { count: received.count, is_settled: true, ..Received::default() };
        });
    }

    /// What the watch has received.
    pub fn received(&self) -> Received {
        self.received.borrow().clone()
    }

    /// A receiver that signals every change of the received data.
    pub fn changed(&self) -> watch::Receiver<Received> {
        self.received.subscribe()
    }

    /// Waits until an offer has arrived, or the agent knows that no offer will arrive soon.
    pub async fn settled(&self) {
        // The wait cannot fail, because this value owns the sender.
        let _ = self.received.subscribe().wait_for(|received| received.is_settled).await;
    }

    /// Sets whether the next cycle reads the configuration over sftp even if an offer has arrived.
    pub fn ask_by_sftp(&self, by_sftp: bool) {
        self.by_sftp.store(by_sftp, Ordering::Relaxed);
    }

    /// The offer that a cycle must act on now. `None` means that the cycle reads the configuration
    /// over sftp.
    pub fn usable(&self) -> Option<Arc<Offer>> {
        let received = self.received.borrow();
        let may = received.is_live && !self.by_sftp.load(Ordering::Relaxed);
        received.offer.clone().filter(|_| may)
    }

    /// Whether the registry's last offer allows the agent only to prepare the configuration `id`,
    /// and not to switch to it.
    pub fn is_staged_only(&self, id: Option<Digest>) -> bool {
        let received = self.received.borrow();
        received.offer.as_ref().is_some_and(|offer| offer.staged_only && offer.id == id)
    }

    /// Waits until the agent may act on the last offer. Returns `false` if a newer offer arrives
    /// during the wait.
    pub async fn wait_to_start(&self) -> bool {
        let mut changed = self.received.subscribe();
        let (count, start) = {
            let received = changed.borrow_and_update();
            (received.count, received.start)
        };
        let Some(start) = start else { return true };
        tokio::select! {
            () = sleep_until(start) => true,
            _ = changed.wait_for(|received| received.count != count) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(revision: u64, start_after_ms: u64) -> Offer {
        Offer { revision, start_after_ms, ..Offer::default() }
    }

    #[test]
    fn offer_is_new_only_if_its_content_differs() {
        let offers = Offers::default();
        assert!(offers.take(offer(1, 0)) && !offers.take(offer(1, 500)));
        assert!(offers.take(offer(2, 0)) && offers.take(Offer { retries: 1, ..offer(2, 0) }));
        assert_eq!(offers.received().count, 3);
        assert!(offers.usable().is_some());
        offers.ask_by_sftp(true);
        assert!(offers.usable().is_none());
        offers.ask_by_sftp(false);
        offers.lose();
        assert!(offers.usable().is_none() && offers.received().offer.is_some());
        assert!(
            !offers.take(Offer { retries: 1, ..offer(2, 0) }),
            "the offer is the same as before"
        );
        assert!(offers.usable().is_some());
        offers.clear();
        assert!(offers.received().offer.is_none() && offers.take(offer(2, 0)));
        assert_eq!(offers.received().count, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn agent_waits_for_the_start_time_unless_a_newer_offer_arrives() {
        let offers = Offers::default();
        let began = Instant::now();
        offers.take(offer(1, 0));
        assert!(offers.wait_to_start().await && began.elapsed().is_zero());
        offers.take(offer(2, 3000));
        assert!(offers.wait_to_start().await);
        assert!(began.elapsed() >= Duration::from_secs(3));
        assert!(offers.wait_to_start().await, "the start time has passed");
        offers.take(offer(3, u64::MAX));
        let newer = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            offers.lose();
            tokio::time::sleep(Duration::from_secs(1)).await;
            offers.take(offer(4, 0));
        };
        let (is_last, ()) = tokio::join!(offers.wait_to_start(), newer);
        assert!(!is_last && began.elapsed() < Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn first_cycle_waits_for_an_offer_or_for_the_loss_of_the_watch() {
        let offers = Offers::default();
        let wait = Duration::from_secs(5);
        assert!(tokio::time::timeout(wait, offers.settled()).await.is_err());
        offers.lose();
        offers.settled().await;
    }
}
