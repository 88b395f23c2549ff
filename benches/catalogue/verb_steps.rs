//! Makes the commands with which each verb is measured. Every repetition has a number, and uses its
//! own configurations and versions. Therefore, no two repetitions change the same object.
//! `benches/catalogue/build` defines the names of these objects.

use std::ops::Range;

use deploy_benches::measured_registry::{exec, put};
use deploy_store::{Configuration, Digest, Layer};
use deploy_wire::client::Client;

/// The maximum number of repetitions of a verb in one round. Each verb has two rounds.
pub const MOST: u32 = 100;
/// The configurations that only `delconf` uses.
pub const DELETED: Range<u32> = 0..100;
/// The numbers of the first configurations that `changeconf`, `bumpconf` and `rollback` change.
/// Each of these verbs has 200 configurations of its own, for two rounds of up to [`MOST`]
/// repetitions.
const CHANGED: u32 = 100;
const BUMPED: u32 = 300;
const ROLLED_BACK: u32 = 500;
/// The configurations that the background load changes, one each second.
const CHANGED_MEANWHILE: Range<u32> = 700..800;
/// The number of the first configuration whose old versions `delver` deletes.
const THINNED: u32 = 800;
/// The number of all configurations.
pub const CONFIGURATIONS: u32 = 1_000;
/// The components that get new versions. At the start, no configuration uses these components.
const GROWING: Range<u32> = 1_900..1_940;
/// The number of the first component that `delcomp` deletes. No configuration uses components with
/// this or a higher number.
const DELETED_COMPONENTS: u32 = 1_940;
/// The number of versions that states use: versions 1 to 40, in turn. Versions 44 to 47 are for
/// `gc`, `delver`, `pin` and `unpin`.
const CYCLE: u32 = 40;
const LARGEST: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    ShowConfiguration,
    ShowComponent,
    Components,
    Configurations,
    HistoryListing,
    History,
    Diff,
    References,
    ReferencesOfBase,
    ReferencesByPrefix,
    Stat,
    Audit,
    Verify,
    AddVersion,
    Put,
    AddConfiguration,
    ChangeConfiguration,
    /// `changeconf` in the background, on its own configurations.
    ChangeMeanwhile,
    BumpConfiguration,
    RollBack,
    Pin,
    Unpin,
    DeleteVersion,
    DeleteOldVersion,
    DeleteConfiguration,
    DeleteComponent,
    WouldCollect,
    Collect,
    /// `gc` in the background. It removes the data that other verbs left.
    CollectMeanwhile,
}

/// The verbs, in the order of the measurements. Each verb has the name of its table row and its
/// maximum number of repetitions.
pub const VERBS: [(Verb, &str, u32); 27] = [
    (Verb::ShowConfiguration, "showconf", MOST),
    (Verb::ShowComponent, "showcomp", MOST),
    (Verb::Components, "components", 20),
    (Verb::Configurations, "configurations", 20),
    (Verb::HistoryListing, "history, all", 20),
    (Verb::History, "history -limit 20", MOST),
    (Verb::Diff, "diff", MOST),
    (Verb::References, "refs", MOST),
    (Verb::ReferencesOfBase, "refs, of 50 configurations", MOST),
    (Verb::ReferencesByPrefix, "refs, by 12 digits", 20),
    (Verb::Stat, "stat", MOST),
    (Verb::Audit, "audit -limit 20", MOST),
    (Verb::Verify, "verify -sample 1%", 5),
    (Verb::AddVersion, "addver", MOST),
    (Verb::Put, "put", MOST),
    (Verb::AddConfiguration, "addconf", MOST),
    (Verb::ChangeConfiguration, "changeconf", MOST),
    (Verb::BumpConfiguration, "bumpconf", MOST),
    (Verb::RollBack, "rollback", MOST),
    (Verb::Pin, "pin", MOST),
    (Verb::Unpin, "unpin", MOST),
    (Verb::DeleteVersion, "delver, never used", MOST),
    (Verb::DeleteOldVersion, "delver, used by old states", MOST),
    (Verb::DeleteConfiguration, "delconf", 20),
    (Verb::DeleteComponent, "delcomp", 20),
    (Verb::WouldCollect, "gc -n", 5),
    (Verb::Collect, "gc", 5),
];

/// A command, and its standard input.
#[derive(Debug)]
pub struct Step {
    pub line: String,
    pub input: Vec<u8>,
}

/// The name of a configuration.
pub fn configuration(number: u32) -> String {
    format!("service{number:04}")
}

fn component(number: u32) -> String {
    format!("part{number:04}")
}

impl Verb {
    /// Prepares a repetition, and returns the command to measure.
    pub async fn prepare(self, client: &Client, number: u32) -> Result<Step, String> {
        if let Some(line) = self.reading(client, number).await? {
            return Ok(Step { line, input: Vec::new() });
        }
        let growing = component(GROWING.start + number % 40);
        let (mut input, part) = (Vec::new(), component(number));
        let line = match self {
            Self::AddVersion => {
                let bytes = archive(&format!("addver {number}"));
                let digest = Digest::of(&bytes);
                put(client, bytes).await?;
                format!("addver -name {growing} -version a{number} -hash {digest}")
            }
            Self::Put => {
                input = archive(&format!("put {number}"));
                format!("put -name {growing} -version p{number}")
            }
            Self::AddConfiguration => {
                let base = component(number % 20);
                format!("addconf -name new{number:04} -layer {base}:v50 -layer {growing}:v50")
            }
            Self::ChangeConfiguration => change(client, CHANGED + number).await?,
            Self::ChangeMeanwhile => {
                let count = CHANGED_MEANWHILE.end - CHANGED_MEANWHILE.start;
                change(client, CHANGED_MEANWHILE.start + number % count).await?
            }
            Self::BumpConfiguration => {
                let name = configuration(BUMPED + number);
                let layer = layer(client, &name, 1).await?;
                format!("bumpconf -name {name} -component {}", layer.component)
            }
            Self::RollBack => format!("rollback -name {}", configuration(ROLLED_BACK + number)),
            Self::Pin => format!("pin -name {part} -version v46 -m benchmark"),
            Self::Unpin => {
                exec(client, &format!("pin -name {part} -version v47"), &[]).await?;
                format!("unpin -name {part} -version v47")
            }
            _ => self.deleting(client, number).await?,
        };
        Ok(Step { line, input })
    }

    /// Prepares a verb that deletes data, and returns the command.
    async fn deleting(self, client: &Client, number: u32) -> Result<String, String> {
        let part = component(number);
        Ok(match self {
            Self::DeleteVersion => format!("delver -name {part} -version v45"),
            Self::DeleteOldVersion => {
                let layer = layer(client, &configuration(THINNED + number), 1).await?;
                let (part, old) = (&layer.component, turn(&layer, CYCLE - 4)?);
                format!("delver -name {part} -version {old}")
            }
            Self::DeleteConfiguration => {
                format!("delconf -name {} -force", configuration(DELETED.start + number))
            }
            Self::DeleteComponent => {
                format!("delcomp -name {}", component(DELETED_COMPONENTS + number))
            }
            Self::Collect => {
                exec(client, &format!("delver -name {part} -version v44"), &[]).await?;
                "gc".to_owned()
            }
            _ => "gc".to_owned(),
        })
    }

    /// Returns the command of a verb that only reads; `None` for other verbs.
    async fn reading(self, client: &Client, number: u32) -> Result<Option<String>, String> {
        let name = configuration(DELETED.end + number * 7 % (CONFIGURATIONS - DELETED.end));
        Ok(Some(match self {
            Self::ShowConfiguration => format!("showconf -name {name}"),
            Self::ShowComponent => format!("showcomp -name {}", component(number * 7)),
            Self::Components => "components".to_owned(),
            Self::Configurations => "configurations".to_owned(),
            Self::HistoryListing => format!("history -name {name}"),
            Self::History => format!("history -name {name} -limit 20"),
            Self::Diff => format!("diff -name {name}"),
            Self::References => format!("refs -hash {}", layer(client, &name, 1).await?.digest),
            Self::ReferencesOfBase => {
                format!("refs -hash {}", layer(client, &name, 0).await?.digest)
            }
            Self::ReferencesByPrefix => {
                let digest = layer(client, &name, 1).await?.digest.to_string();
                format!("refs -hash {}", &digest[..12])
            }
            Self::Stat => "stat".to_owned(),
            Self::Audit => "audit -limit 20".to_owned(),
            Self::Verify => "verify -sample 1%".to_owned(),
            Self::WouldCollect => "gc -n".to_owned(),
            _ => return Ok(None),
        }))
    }
}

/// Reads the configuration as an agent would, and returns its layer at `position`.
async fn layer(client: &Client, name: &str, position: usize) -> Result<Layer, String> {
    let path = format!("configs/{name}.json");
    let json = client.read_small(&path, LARGEST).await.map_err(|err| err.to_string())?;
    let json = json.ok_or_else(|| format!("{path}: no configuration"))?;
    let configuration = Configuration::from_json(&json).map_err(|err| err.to_string())?;
    let layer = configuration.layers().get(position).cloned();
    layer.ok_or_else(|| format!("{path}: no layer {position}"))
}

/// The version that comes `turns` places after the layer's version in the cycle.
fn turn(layer: &Layer, turns: u32) -> Result<String, String> {
    let version = layer.version.as_str();
    let number: Option<u32> = version.strip_prefix('v').and_then(|digits| digits.parse().ok());
    let number = number.filter(|number| (1..=CYCLE).contains(number));
    let number = number.ok_or_else(|| format!("{version} is not a version of a state"))?;
    Ok(format!("v{}", (number - 1 + turns) % CYCLE + 1))
}

/// Returns the command that changes one layer to its next version.
async fn change(client: &Client, number: u32) -> Result<String, String> {
    let name = configuration(number);
    let layer = layer(client, &name, 1).await?;
    let (part, version) = (&layer.component, turn(&layer, 1)?);
    Ok(format!("changeconf -name {name} -component {part} -version {version}"))
}

/// Makes a tar archive of one small file.
fn archive(text: &str) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, "version", text.as_bytes()).expect("memory takes everything");
    archive.into_inner().expect("memory takes everything")
}
