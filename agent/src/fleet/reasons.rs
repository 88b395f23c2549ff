//! Maps the error of a cycle to the reason and the exit code in a report.

use deploy_wire::client::ClientError;
use deploy_wire::fleet::Reason;

use crate::error::Error;
use crate::script;

/// The reason that the agent reports for `err`.
pub fn reason(err: &Error) -> Reason {
    if err.is_no_space() || err.is_over_quota() {
        return Reason::Space;
    }
    match err {
        Error::Registry(_)
        | Error::UnknownConfiguration { .. }
        | Error::BadConfiguration { .. }
        | Error::NoRegistry => Reason::Registry,
        Error::Download { cause, .. } if is_lost(cause) => Reason::Registry,
        Error::Download { .. } | Error::WrongBytes { .. } | Error::Layer { .. } => Reason::Layer,
        Error::NoRoom { .. } | Error::Full { .. } => Reason::Space,
        Error::BadScriptEnvironment(_) | Error::Script { .. } => Reason::Script,
        Error::Store(_) | Error::NothingDeployed | Error::NothingBefore { .. } => Reason::Other,
    }
}

/// The exit code of the script, if the script exited.
pub fn exit_code(err: &Error) -> Option<i32> {
    match err {
        Error::Script { cause, .. } => script_exit_code(cause),
        _ => None,
    }
}

/// The exit code of a script that failed with `cause`.
pub fn script_exit_code(cause: &script::Error) -> Option<i32> {
    match cause {
        script::Error::Failed { status, .. } => status.code(),
        _ => None,
    }
}

/// Whether the cycle failed because the connection failed. The next cycle connects again.
pub fn is_connection(err: &Error) -> bool {
    match err {
        Error::Registry(cause) | Error::Download { cause, .. } => is_lost(cause),
        _ => false,
    }
}

fn is_lost(cause: &ClientError) -> bool {
    matches!(
        cause,
        ClientError::Unreachable { .. } | ClientError::Lost(_) | ClientError::Stalled { .. }
    )
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::ExitStatus;

    use deploy_store::{Configuration, Digest, Layer};

    use super::*;
    use crate::error::Lack;

    fn script(cause: script::Error) -> Error {
        let created = "2026-11-23T03:49:03Z".parse().unwrap();
        let layer = Layer {
            component: "code".parse().unwrap(),
            version: "v1".parse().unwrap(),
            digest: Digest::of(b"a"),
            created,
        };
        let target = Configuration::new("p".parse().unwrap(), vec![layer], created).unwrap();
        Error::Script { target: Box::new(target), cause, log: "script.log".into() }
    }

    #[test]
    fn each_error_has_its_reason() {
        let layer = || "\"code\" version \"v1\"".to_owned();
        let lost = || ClientError::Lost("gone".to_owned());
        let missing = || ClientError::NotFound { what: "get".to_owned(), why: "none".to_owned() };
        let full = || deploy_store::Error::io("write", "x", io::Error::from_raw_os_error(28));
        let damaged = || deploy_store::Error::NoSuchBlob(Digest::of(b"a"));
        for (err, want) in [
            (Error::Registry(lost()), Reason::Registry),
            (Error::NoRegistry, Reason::Registry),
            (Error::Download { layer: layer(), cause: lost() }, Reason::Registry),
            (Error::Download { layer: layer(), cause: missing() }, Reason::Layer),
            (Error::Layer { layer: layer(), cause: damaged() }, Reason::Layer),
            (Error::Layer { layer: layer(), cause: full() }, Reason::Space),
            (Error::Store(full()), Reason::Space),
            (Error::Store(damaged()), Reason::Other),
            (Error::Full { cause: "x".to_owned(), lack: Lack::Files, need: None }, Reason::Space),
            (Error::NothingDeployed, Reason::Other),
        ] {
            assert_eq!(reason(&err), want, "{err}");
        }
        assert!(is_connection(&Error::Registry(lost())));
        assert!(!is_connection(&Error::Download { layer: layer(), cause: missing() }));
    }

    #[test]
    fn exit_code_is_known_only_if_the_script_exited() {
        let failed = |raw| {
            let (program, status) = ("./deploy.sh".to_owned(), ExitStatus::from_raw(raw));
            script(script::Error::Failed { program, status })
        };
        assert_eq!(reason(&failed(3 << 8)), Reason::Script);
        assert_eq!((exit_code(&failed(3 << 8)), exit_code(&failed(9))), (Some(3), None));
        assert_eq!(exit_code(&Error::NoRegistry), None);
    }
}
