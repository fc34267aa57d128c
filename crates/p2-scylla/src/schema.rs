//! The tables: made and brought up to date by versioned migrations, compared before anything is done with them.

use crate::error::{OpenError, failed};
use crate::options::Options;
use crate::session::{Connected, connect, exists};
use crate::statements::{self, KEYSPACE_EXISTS, TABLE_EXISTS};
use p2_core::ids::Id;
use scylla::value::CqlValue;

/// The version of the tables that this program works with.
pub const SCHEMA_VERSION: i32 = 1;

/// How the tables in a keyspace stand to this program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SchemaState {
    /// The keyspace or its tables are not there.
    Missing,
    /// They are older: [`migrate`] brings them up to date.
    Older {
        /// The version that is there.
        found: i32,
    },
    /// They fit.
    Current,
    /// A newer program made them.
    Newer {
        /// The version that is there.
        found: i32,
    },
    /// A version is noted with other statements than this program has for it.
    Different {
        /// The version.
        version: i32,
    },
}

impl SchemaState {
    /// What is wrong and how to mend it; none where nothing is.
    pub fn complaint(&self, keyspace: &str) -> Option<String> {
        Some(match self {
            SchemaState::Current => return None,
            SchemaState::Missing => {
                format!("keyspace '{keyspace}' has no tables of this program: run `p2engine store apply`")
            }
            SchemaState::Older { found } => format!(
                "the tables in keyspace '{keyspace}' have version {found}, this program wants {SCHEMA_VERSION}: \
                 run `p2engine store apply`"
            ),
            SchemaState::Newer { found } => format!(
                "the tables in keyspace '{keyspace}' have version {found}, this program knows {SCHEMA_VERSION}: \
                 use the newer program"
            ),
            SchemaState::Different { version } => format!(
                "version {version} of the tables in keyspace '{keyspace}' was made by other statements: \
                 choose another keyspace, or drop this one and run `p2engine store apply`"
            ),
        })
    }
}

/// Says how the tables stand to this program. Changes nothing.
///
/// # Errors
/// Where the store cannot be reached or asked.
pub async fn check(options: &Options) -> Result<SchemaState, OpenError> {
    state(&connect(options).await?, &options.keyspace).await
}

/// Makes the keyspace and the tables, or brings them up to date; does nothing where they are. Safe to repeat
/// after any failure. Returns how they stood before.
///
/// # Errors
/// Where the store cannot be reached, refuses a statement, or has tables that this program must not touch.
pub async fn migrate(options: &Options) -> Result<SchemaState, OpenError> {
    let connected = connect(options).await?;
    let keyspace = options.keyspace.as_str();
    let before = state(&connected, keyspace).await?;
    let from = match &before {
        SchemaState::Current => return Ok(before),
        SchemaState::Missing => 0,
        SchemaState::Older { found } => *found,
        SchemaState::Newer { .. } | SchemaState::Different { .. } => {
            return Err(OpenError::Schema(before.complaint(keyspace).unwrap_or_default()));
        }
    };
    if !exists(&connected, KEYSPACE_EXISTS, &[keyspace]).await? {
        let text = statements::keyspace(keyspace, options.replication_factor, connected.flavour);
        run(&connected, &text).await?;
    }
    run(&connected, &statements::migrations_table(keyspace)).await?;
    for version in from + 1..=SCHEMA_VERSION {
        let texts = statements::migration(version, keyspace);
        for text in &texts {
            run(&connected, text).await?;
        }
        let note = statements::note_migration(keyspace);
        let done = connected.session.query_unpaged(note, (version, checksum(version))).await;
        done.map_err(|error| OpenError::Store(failed(&error, &connected.nodes)))?;
    }
    Ok(before)
}

/// The keyspace's name is not part of it: a copy under another name is the same schema.
fn checksum(version: i32) -> String {
    Id::of_text(&statements::migration(version, "k").join("\n")).to_string()
}

async fn run(connected: &Connected, text: &str) -> Result<(), OpenError> {
    let done = connected.session.query_unpaged(text, ()).await;
    done.map(|_| ()).map_err(|error| OpenError::Store(failed(&error, &connected.nodes)))
}

pub(crate) async fn state(connected: &Connected, keyspace: &str) -> Result<SchemaState, OpenError> {
    if !exists(connected, TABLE_EXISTS, &[keyspace, "migrations"]).await? {
        return Ok(SchemaState::Missing);
    }
    let store = |error: &(dyn std::error::Error + 'static)| OpenError::Store(failed(error, &connected.nodes));
    let text = statements::made_migrations(keyspace);
    let found = connected.session.query_unpaged(text, ()).await.map_err(|error| store(&error))?;
    let found = found.into_rows_result().map_err(|error| store(&error))?;
    let rows = found.rows::<(i32, String)>().map_err(|error| store(&error))?;
    let made: Vec<(i32, String)> = rows.collect::<Result<_, _>>().map_err(|error| store(&error))?;
    Ok(judge(&made))
}

fn judge(made: &[(i32, String)]) -> SchemaState {
    let Some(found) = made.iter().map(|(version, _)| *version).max() else { return SchemaState::Missing };
    if found > SCHEMA_VERSION {
        return SchemaState::Newer { found };
    }
    if let Some((version, _)) = made.iter().find(|(version, noted)| *noted != checksum(*version)) {
        return SchemaState::Different { version: *version };
    }
    if found < SCHEMA_VERSION { SchemaState::Older { found } } else { SchemaState::Current }
}

/// `[applied]` of a conditional write's answer: always its first column, whatever columns follow.
pub(crate) fn was_applied(columns: &[Option<CqlValue>]) -> bool {
    matches!(columns.first(), Some(Some(CqlValue::Boolean(true))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(versions: impl IntoIterator<Item = i32>) -> Vec<(i32, String)> {
        versions.into_iter().map(|version| (version, checksum(version))).collect()
    }

    #[test]
    fn the_state_of_the_tables_is_read_from_what_was_noted() {
        assert_eq!(judge(&[]), SchemaState::Missing);
        assert_eq!(judge(&noted(1..=SCHEMA_VERSION)), SchemaState::Current);
        assert_eq!(judge(&noted(1..=SCHEMA_VERSION + 1)), SchemaState::Newer { found: SCHEMA_VERSION + 1 });
        assert_eq!(judge(&[(1, "other".to_owned())]), SchemaState::Different { version: 1 });
    }

    #[test]
    fn every_complaint_says_what_to_do() {
        assert_eq!(SchemaState::Current.complaint("p2"), None);
        for state in [
            SchemaState::Missing,
            SchemaState::Older { found: 0 },
            SchemaState::Newer { found: 9 },
            SchemaState::Different { version: 1 },
        ] {
            let said = state.complaint("p2").unwrap();
            assert!(said.contains("'p2'") && said.contains(": "), "{said}");
        }
    }

    #[test]
    fn a_conditional_write_is_judged_by_its_first_column_alone() {
        let applied = [Some(CqlValue::Boolean(true))];
        let refused = [Some(CqlValue::Boolean(false)), Some(CqlValue::Text("log".to_owned())), None];
        assert!(was_applied(&applied));
        assert!(!was_applied(&refused));
        assert!(!was_applied(&[]));
    }
}
