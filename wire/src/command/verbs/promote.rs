//! `promote`: gives one configuration the layers of another.

use deploy_store::ConfigurationName;

use crate::command::given::Given;
use crate::command::line::Line;
use crate::command::rollout_rules::{
    AT_ONCE, MAX_FAILED, POLICY, SOAK, SUPERSEDE, WAVES,
};
use crate::command::verb::{Flag, IF_HASH, OVERRIDE_FLAG, TIMEOUT, Verb, WAIT, configuration};
use crate::command::{ChangeOptions, Command, Refusal};

pub(in crate::command) const VERB: Verb = Verb {
    name: "promote",
    about: "copy the layers of one configuration to another, e.g. from staging to production",
    flags: &[
            AT_ONCE,
            configuration("from", "configuration that has the layers"),
            Flag { about: "promote only if this is the current hash of the configuration in -from", ..IF_HASH },
            MAX_FAILED,
            OVERRIDE_FLAG,
            POLICY,
            SOAK,
            SUPERSEDE,
            TIMEOUT,
            configuration("to", "configuration that gets the layers; it is created if it does not exist"),
            WAIT,
            WAVES,
        ],
    examples: &[
        "promote -from staging -to production",
        "promote -from staging -to production -waves canary,10%,100% -wait",
    ],
    changes: true,
    reads_input: false,
};

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    given.need(&["from", "to"], "both from and to should be set")?;
    let (from, to): (ConfigurationName, ConfigurationName) =
        (given.parsed("from")?, given.parsed("to")?);
    if from == to {
        return Err(Refusal::usage("from and to should be different configurations".to_owned()));
    }
    let (if_hash, options) = (given.if_hash()?, ChangeOptions::parse(given)?);
    Ok(Command::Promote { from, to, if_hash, options })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::Promote { from, to, if_hash, options } = command else { return };
    line.flag("from", from.as_str());
    line.flag("to", to.as_str());
    line.maybe("if-hash", if_hash.as_ref());
    options.write(line);
}
