//! Starts the servers, the proxy, the registries and the agents.

use std::fs;

use deploy_store::Digest;
use deploy_testing::{Engines, FaultProxy, Faults};
use tempfile::TempDir;

use crate::access::{Access, Answer, At};
use crate::blobs::archive;
use crate::ledger::{Ledger, MAX_VERSIONS, Version};
use crate::processes::{Agent, Registry};
use crate::{CONFIGURATIONS, GRACE, LIMIT, OPERATORS, REGISTRIES, ROLLED};

/// How many requests of each 1,000 to the bucket fail, all the time.
const FAULTS: Faults = Faults { drop: 15, delay: 30, lose_answer: 15, late_delete: 100 };
/// How many agents track each configuration.
const AGENTS: usize = 2;
/// The component of the configuration [`ROLLED`].
pub const ROLLED_COMPONENT: &str = "r";

pub struct World {
    pub proxy: FaultProxy,
    pub registries: Vec<Registry>,
    pub agents: Vec<Agent>,
    pub access: Access,
    pub engines: Engines,
    /// The directories are removed last.
    dirs: [TempDir; 2],
}

/// The component of an operator.
pub fn component(operator: usize) -> String {
    format!("c{operator}")
}

/// The first version of a component.
pub fn first_version(component: &str) -> String {
    format!("v-{component}-0")
}

impl World {
    /// Starts everything; `None` if the test is skipped.
    pub fn start(seed: u64) -> Option<Self> {
        let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap()];
        let engines = Engines::start_in(dirs[0].path())?;
        let dir = dirs[1].path();
        let proxy = FaultProxy::start(engines.s3(), seed);
        for key in ["operator", "server"] {
            deploy_testing::make_key(&dir.join(key));
        }
        let mut flags: Vec<String> =
            ["-opauth", "../operator.pub", "-srvauth", "../server.pub"].map(str::to_owned).to_vec();
        let bucket = format!("s3://deploy?endpoint={}", proxy.url());
        for (flag, value) in [
            ("-catalogue", engines.database()),
            ("-bucket", bucket),
            ("-grace", format!("{}s", GRACE.as_secs())),
            ("-linger", "1s".to_owned()),
            ("-abandon-after", "20s".to_owned()),
            ("-maxver", MAX_VERSIONS.to_string()),
            ("-keep-states", "3".to_owned()),
            // The cache holds few blobs, so the registries read the bucket all the time.
            ("-cache", "64K".to_owned()),
        ] {
            flags.extend([flag.to_owned(), value]);
        }
        let credentials = engines.credentials().map(|(name, it)| (name.to_owned(), it.to_owned()));
        let mut registries: Vec<Registry> = (0..REGISTRIES)
            .map(|n| {
                Registry::new(dir.join(format!("reg{n}")), flags.clone(), credentials.to_vec())
            })
            .collect();
        registries[0].start();
        for n in 1..REGISTRIES {
            fs::create_dir(registries[n].path("data")).unwrap();
            let key = registries[0].path("data/host_key");
            fs::copy(key, registries[n].path("data/host_key")).unwrap();
            registries[n].start();
        }
        let access = Access {
            ports: [0, 1, 2].map(|n: usize| registries[n].port),
            fingerprint: registries[0].fingerprint(),
            operator: dir.join("operator"),
            agent: dir.join("server"),
        };
        Some(Self { proxy, registries, agents: Vec::new(), access, engines, dirs })
    }

    async fn ok(&self, line: &str) {
        let answer = self.access.ask(At::One(0), line, LIMIT).await;
        assert!(matches!(answer, Answer::Done(_)), "{line}: {answer:?}");
    }

    /// Makes the first version of each component, and the configurations. Starts the agents. From
    /// then on, requests to the bucket fail.
    pub async fn fill(&mut self, ledger: &Ledger) {
        let own: Vec<String> = (0..OPERATORS).map(component).collect();
        let rolled = ROLLED_COMPONENT.to_owned();
        for (text, component) in own.iter().chain([&rolled]).enumerate() {
            let (bytes, name) = (archive(text), first_version(component));
            let digest = Digest::of(&bytes);
            self.access.upload(At::One(0), &bytes, LIMIT).await.unwrap();
            self.ok(&format!("addver -name {component} -version {name} -hash {digest}")).await;
            let mut ledger = ledger.open();
            ledger.texts.insert(name.clone(), text);
            let version = Version { name, digest, pinned: false, deleting: false };
            ledger.versions.insert(component.clone(), vec![version]);
        }
        let layers = own.iter().map(|of| format!(" -layer {of}:{}", first_version(of)));
        let layers = layers.collect::<String>();
        for name in CONFIGURATIONS {
            self.ok(&format!("addconf -name {name}{layers}")).await;
        }
        let first = first_version(&rolled);
        self.ok(&format!("addconf -name {ROLLED} -layer {rolled}:{first}")).await;
        for name in CONFIGURATIONS.into_iter().chain([ROLLED]) {
            for n in 0..AGENTS {
                let dir = self.dirs[1].path().join(format!("{name}-{n}"));
                self.agents.push(Agent::start(dir, name, &self.access));
            }
        }
        self.proxy.set(FAULTS);
    }

    /// Lets all programs and the network work again.
    pub fn heal(&mut self) {
        self.proxy.set_away(false);
        self.proxy.set(Faults::default());
        self.engines.start();
        self.registries.iter().for_each(Registry::thaw);
        self.proxy.settle();
    }
}
