//! How a command fails: one clear line, and an exit code that scripts can trust.

use std::process::ExitCode;

use highwater_types::ErrorCode;

/// What the exit code says; the numbers are part of the command line's contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// It was tried and did not succeed.
    Failed = 1,
    /// An argument or a configuration is wrong; nothing was tried. (Also what clap exits with.)
    Usage = 2,
    /// No node of the cluster could be reached.
    Unreachable = 3,
    /// The work was done, and what came of it is not what was promised.
    Verification = 4,
}

/// A failed command.
#[derive(Debug)]
pub struct Failure {
    pub kind: FailureKind,
    message: String,
}

pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub fn failed(message: impl std::fmt::Display) -> Self {
        Self { kind: FailureKind::Failed, message: message.to_string() }
    }
    pub fn usage(message: impl std::fmt::Display) -> Self {
        Self { kind: FailureKind::Usage, message: message.to_string() }
    }
    pub fn unreachable(message: impl std::fmt::Display) -> Self {
        Self { kind: FailureKind::Unreachable, message: message.to_string() }
    }
    pub fn verification(message: impl std::fmt::Display) -> Self {
        Self { kind: FailureKind::Verification, message: message.to_string() }
    }

    /// With `context: ` before the message.
    #[must_use]
    pub fn with_context(self, context: &str) -> Self {
        Self { message: format!("{context}: {}", self.message), ..self }
    }

    /// Says it on standard error.
    pub fn report(self) -> ExitCode {
        if !self.message.is_empty() {
            eprintln!("error: {}", self.message);
        }
        ExitCode::from(self.kind as u8)
    }

    /// Which failure an error code is, with what to do about the most common ones.
    pub fn of_code(code: ErrorCode, message: &str) -> Self {
        use ErrorCode as E;
        let hint = match code {
            E::UnknownTopic => "; `highwater topic list` shows the topics there are",
            E::NotEnoughReplicas | E::NotEnoughReplicasAfterAppend | E::LeaderNotAvailable => {
                "; `highwater topic describe` and `highwater cluster describe` show who is missing"
            }
            E::ControllerNotAvailable => "; is a majority of the controllers running?",
            _ => "",
        };
        let kind = match code {
            E::Unavailable => FailureKind::Unreachable,
            _ => FailureKind::Failed,
        };
        // Messages that end in a sentence's stop would make an odd hint.
        Self { kind, message: format!("{}{hint}", message.trim_end_matches('.')) }
    }
}

impl From<highwater_testkit::ClusterError> for Failure {
    fn from(error: highwater_testkit::ClusterError) -> Self {
        use highwater_testkit::ClusterError as E;
        match error {
            E::OtherCluster { .. } => Self::usage(error),
            E::NotRunning { .. } => Self::unreachable(error),
            other => Self::failed(other),
        }
    }
}

/// Broken pipes apart: who reads our output may stop when they have seen enough.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self { kind: FailureKind::Failed, message: String::new() };
        }
        Self::failed(error)
    }
}
