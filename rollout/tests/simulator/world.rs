//! Simulates the world of a rollout: the time, the hosts, the stored rollout, and the events that
//! change them.

use std::collections::BTreeMap;

use deploy_rollout::{Host, Rollout, Standing, Status, shows_target};
use jiff::Timestamp;

use crate::agent::{Agent, Kind, MINUTE, SECOND};
use crate::daily_window::DailyWindow;
use crate::dice::Dice;
use crate::events::{Deed, Event, Queue};
use crate::judge::Judge;
use crate::random_fleet;

/// A description of what is wrong with a run.
pub type Fault = String;

pub struct World {
    pub dice: Dice,
    /// The time since the beginning of the simulation, in milliseconds.
    pub clock: u64,
    /// The rollout and the hosts, as the registry has stored them.
    pub rollout: Rollout,
    pub hosts: Vec<Host>,
    pub agents: BTreeMap<i64, Agent>,
    pub queue: Queue,
    pub judge: Judge,
    pub log: Vec<String>,
    /// Whether every agent is fine and no operator interferes. If so, the rollout has to succeed.
    pub is_calm: bool,
    /// The maintenance window of the group `web`.
    pub window: Option<DailyWindow>,
    /// Whether the registry runs (`is_up`), and whether its driver runs (`is_driven`).
    pub is_up: bool,
    pub is_driven: bool,
    /// The number of the last check that the driver scheduled.
    pub look: u64,
    /// The number of times that the driver may still be killed.
    pub kills: u64,
    /// The number of actions that operators may still make.
    pub operations: u64,
    last_id: i64,
}

/// The beginning of each simulation, in milliseconds of Unix time.
pub const START: u64 = 1_795_000_000_000;

pub fn timestamp(clock: u64) -> Timestamp {
    Timestamp::from_millisecond(i64::try_from(START + clock).unwrap()).unwrap()
}

impl World {
    pub fn random(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let is_calm = dice.per_cent(15);
        let policy = random_fleet::policy(&mut dice, is_calm);
        let rollout = Rollout::new(policy, timestamp(0));
        let kills = if dice.per_cent(60) { dice.below(12) } else { 0 };
        let window = dice.per_cent(10).then(|| DailyWindow::random(&mut dice));
        let operations = if is_calm || dice.per_cent(40) { 0 } else { dice.between(1, 8) };
        let mut world = Self {
            dice,
            clock: 0,
            judge: Judge::new(&rollout, window),
            rollout,
            hosts: Vec::new(),
            agents: BTreeMap::new(),
            queue: Queue::default(),
            log: Vec::new(),
            is_calm,
            window,
            is_up: true,
            is_driven: true,
            look: 0,
            kills,
            operations,
            last_id: 0,
        };
        let size = random_fleet::size(&mut world.dice);
        // A simulation with windows covers days of simulated time. A large fleet would have too
        // many events in this time.
        for _ in 0..(if window.is_some() { size.min(30) } else { size }) {
            world.add_host();
        }
        world.queue.push(0, Event::Look(0));
        for _ in 0..world.operations {
            let at = world.dice.below(60 * MINUTE);
            world.queue.push(at, Event::Operator);
        }
        if world.dice.per_cent(30) {
            // At most one restart begins in each period of 150 minutes.
            for n in 1..=world.dice.between(1, 2) {
                let at = n * 150 * MINUTE - world.dice.between(0, 149 * MINUTE);
                let lasts = world.dice.one_of(&[SECOND, 20 * SECOND, 50 * MINUTE]);
                world.queue.push(at, Event::Restart(lasts));
                if world.is_calm {
                    break;
                }
            }
        }
        for _ in 0..(if world.is_calm { 0 } else { world.dice.below(3) }) {
            let at = world.dice.below(60 * MINUTE);
            world.queue.push(at, Event::Join);
        }
        world
    }

    pub fn now(&self) -> Timestamp {
        timestamp(self.clock)
    }

    pub fn note(&mut self, text: impl AsRef<str>) {
        let clock = self.clock;
        self.log.push(format!("{:>9}.{:03} {}", clock / 1000, clock % 1000, text.as_ref()));
    }

    pub fn host(&mut self, id: i64) -> Option<&mut Host> {
        // The list is sorted by id, because each new host gets a higher id.
        let place = self.hosts.binary_search_by_key(&id, |host| host.id).ok()?;
        Some(&mut self.hosts[place])
    }

    /// Changes a host, unless it is retired.
    fn change(&mut self, id: i64, change: impl FnOnce(&mut Host)) {
        if let Some(host) = self.host(id) {
            change(host);
        }
    }

    fn add_host(&mut self) {
        self.last_id += 1;
        let id = self.last_id;
        let most = u64::try_from(self.rollout.policy.wave_timeout.as_millis()).unwrap() - SECOND;
        let kind = match (Kind::random(&mut self.dice, self.is_calm, most), self.window) {
            // With windows, a simulation covers days of simulated time. A host that flaps for days
            // would cause too many events.
            (Kind::Flapping(..), Some(_)) => Kind::Silent,
            (kind, _) => kind,
        };
        let mut host = random_fleet::host(&mut self.dice, id, kind, self.is_calm);
        host.windows = self.window.filter(|_| host.group == "web").map(DailyWindow::windows);
        let online = kind != Kind::Dead;
        if !online {
            let since = self.clock.saturating_sub(self.dice.below(2) * 10 * MINUTE);
            host.away_since = Some(timestamp(since));
        }
        if let Kind::Flapping(up, _, _) = kind {
            self.queue.push(self.clock + self.dice.below(up), Event::Disconnect(id));
        }
        let standing = host.standing.clone();
        self.hosts.push(host);
        let (connected, shown, offer) = (online, false, 0);
        self.agents.insert(id, Agent { kind, standing, online, connected, shown, offer });
    }

    /// Runs until the rollout is decided and no operator can change this decision.
    pub fn run(&mut self) -> Result<(), Fault> {
        while let Some((at, event)) = self.queue.pop() {
            self.clock = self.clock.max(at);
            if self.happen(event)? {
                self.drive()?;
            }
            self.offer();
            if self.judge.is_over(self)? {
                return Judge::verdict(self);
            }
        }
        Err("there are no more events, but the rollout is undecided".to_owned())
    }

    /// Processes an event. Returns whether the driver has to check the rollout.
    fn happen(&mut self, event: Event) -> Result<bool, Fault> {
        match event {
            Event::Look(number) => return Ok(number == self.look),
            Event::Revive => self.is_driven = true,
            Event::Operator => self.operate()?,
            Event::Join => {
                self.add_host();
                self.disturb();
            }
            Event::Release(id) => {
                self.change(id, |host| host.held = false);
                self.disturb();
            }
            Event::Single(id) => {
                self.change(id, |host| host.duplicate = false);
                self.disturb();
            }
            Event::Deed(id, offer, deed) => {
                let Some(agent) = self.agents.get_mut(&id) else { return Ok(false) };
                if agent.offer != offer {
                    return Ok(false);
                }
                match deed {
                    Deed::Report(standing) => {
                        agent.standing = standing;
                        return Ok(self.report(id));
                    }
                    Deed::Disconnect => return Ok(self.disconnect(id)),
                }
            }
            Event::Connect(id) => return Ok(self.connect(id)),
            Event::Disconnect(id) => return Ok(self.disconnect(id)),
            Event::Reconnect(id) => return Ok(self.reconnect(id)),
            Event::Restart(lasts) => self.stop(lasts),
            Event::Started => self.started(),
        }
        Ok(true)
    }

    /// Records a disturbance, after which deadlines may start again.
    pub fn disturb(&mut self) {
        self.judge.disturbed = self.clock;
    }

    fn report(&mut self, id: i64) -> bool {
        let Some(agent) = self.agents.get(&id).filter(|agent| agent.connected) else {
            return false;
        };
        let (standing, kind) = (agent.standing.clone(), agent.kind);
        let Some(host) = self.host(id) else { return false };
        // A report makes a host known. A fetch that the registry observes is not a report.
        host.unknown = host.unknown && !(matches!(kind, Kind::Reports(..)) && is_result(&standing));
        host.standing = standing;
        true
    }

    fn connect(&mut self, id: i64) -> bool {
        let Some(agent) = self.agents.get_mut(&id) else { return false };
        agent.online = true;
        if let Kind::Flapping(up, _, _) = agent.kind {
            self.queue.push(self.clock + up, Event::Disconnect(id));
        }
        self.reconnect(id)
    }

    fn reconnect(&mut self, id: i64) -> bool {
        let is_up = self.is_up;
        let Some(agent) = self.agents.get_mut(&id).filter(|agent| agent.online && is_up) else {
            return false;
        };
        agent.connected = true;
        self.change(id, |host| host.away_since = None);
        self.report(id);
        true
    }

    fn disconnect(&mut self, id: i64) -> bool {
        let now = self.now();
        let Some(agent) = self.agents.get_mut(&id) else { return false };
        (agent.online, agent.connected) = (false, false);
        if let Kind::Flapping(_, down, _) = agent.kind {
            self.queue.push(self.clock + down, Event::Connect(id));
        }
        if !self.is_up {
            return false;
        }
        self.change(id, |host| host.away_since = host.away_since.or(Some(now)));
        true
    }

    fn stop(&mut self, lasts: u64) {
        self.note(format!("the registry stops for {lasts} ms"));
        (self.is_up, self.is_driven) = (false, false);
        self.agents.values_mut().for_each(|agent| agent.connected = false);
        self.queue.push(self.clock + lasts, Event::Started);
    }

    /// Starts the registry again. At first, the registry has no connections. The agents connect
    /// within 50 s.
    fn started(&mut self) {
        self.note("the registry runs again");
        (self.is_up, self.is_driven) = (true, true);
        let now = self.now();
        self.hosts.iter_mut().for_each(|host| host.away_since = Some(now));
        let back: Vec<i64> =
            self.agents.iter().filter(|(_, agent)| agent.online).map(|(id, _)| *id).collect();
        for id in back {
            let at = self.clock + self.dice.between(1, 50 * SECOND);
            self.queue.push(at, Event::Reconnect(id));
        }
        self.disturb();
    }

    /// Offers to each connected agent the base or the target, as the rollout decides.
    fn offer(&mut self) {
        if self.rollout.status == Status::Succeeded {
            return;
        }
        for host in &mut self.hosts {
            let agent = self.agents.get_mut(&host.id).unwrap();
            let wanted = shows_target(&self.rollout, host.member.as_ref());
            if !agent.connected || host.held || agent.shown == wanted {
                continue;
            }
            agent.shown = wanted;
            agent.offer += 1;
            if wanted {
                let window = self.window.filter(|_| host.windows.is_some());
                let start = window.map_or(self.clock, |window| window.open_at(self.clock));
                for (after, deed) in agent.kind.deeds() {
                    self.queue.push(start + after, Event::Deed(host.id, agent.offer, deed));
                }
            } else {
                agent.standing = Standing::Base;
                host.standing = Standing::Base;
            }
        }
    }
}

fn is_result(standing: &Standing) -> bool {
    matches!(standing, Standing::Healthy | Standing::Failed(_))
}
