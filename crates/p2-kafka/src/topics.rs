//! Topics at the broker: what `topics/*.toml` says, compared and applied.
//!
//! Nothing is changed that would move keys or lose records: such differences are refused, with the mend. What a
//! broker keeps longer or safer than asked is left as it is.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use p2_core::record::{RECORD_BYTES_MAX, Topic};
use p2_stream::ports::LogError;
use p2_stream::topics::{Cleanup, TopicSpec};
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigSource, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::RDKafkaErrorCode;
use serde::Deserialize;

use crate::config::{self, KafkaConfig};
use crate::context::Context;
use crate::log::blocking;
use crate::reader;
use crate::records::Names;

#[cfg(test)]
mod tests;

/// What the cluster decides, beside the files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TopicSettings {
    /// Partitions of every topic but the registry; as in the files where absent. Never changed later.
    pub partitions: Option<i32>,
    /// Copies of each partition; where absent, three, or as many as there are brokers, and not fewer than the topics
    /// have that are there.
    pub replication: Option<i32>,
    /// Copies that must have a record before it counts as written; one less than all where absent.
    pub min_insync: Option<i32>,
}

/// A topic as the broker has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicState {
    /// Partitions.
    pub partitions: i32,
    /// Copies of each partition: the least of any.
    pub replication: i32,
    /// Every setting in force.
    pub config: BTreeMap<String, String>,
    /// The settings that were made on this topic.
    pub own: BTreeMap<String, String>,
}

/// What a topic should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its name at the broker.
    pub name: String,
    /// Partitions.
    pub partitions: i32,
    /// Copies.
    pub replication: i32,
    /// Somebody asked for so many copies: fewer are refused, and no hint only.
    pub is_asked: bool,
    /// Settings.
    pub config: BTreeMap<&'static str, String>,
}

/// One difference between what is wanted and what is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The topic is not there: it is created.
    Missing(Wanted),
    /// A setting is changed.
    Setting {
        /// The topic.
        topic: String,
        /// The setting.
        key: &'static str,
        /// As it is.
        is: String,
        /// As it will be.
        wanted: String,
    },
    /// It cannot be changed in place.
    Refused {
        /// The topic.
        topic: String,
        /// What differs, why it is not changed, and the mend.
        reason: String,
    },
    /// Nothing is wrong, and it could be safer. It is not done from here.
    Hint {
        /// The topics.
        topics: Vec<String>,
        /// What could be safer, and how.
        reason: String,
    },
}

impl Difference {
    /// Whether it leaves everything that is promised as it is: copies, and how many of them must have a record.
    #[must_use]
    pub fn is_hint(&self) -> bool {
        match self {
            Difference::Hint { .. } => true,
            Difference::Setting { key, .. } => *key == MIN_INSYNC,
            Difference::Missing(_) | Difference::Refused { .. } => false,
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Difference::Missing(wanted) => write!(
                out,
                "create {}: {} partitions, {} copies, {}",
                wanted.name,
                wanted.partitions,
                wanted.replication,
                wanted
                    .config
                    .iter()
                    .map(|(key, value)| format!("{key}={value}"))
                    .collect::<Vec<_>>()
                    .join(" ")
            ),
            Difference::Setting { topic, key, is, wanted } => {
                write!(out, "set {topic}: {key} {is} -> {wanted}")
            }
            Difference::Refused { topic, reason } => write!(out, "refused {topic}: {reason}"),
            Difference::Hint { topics, reason } => write!(out, "hint {}: {reason}", topics.join(", ")),
        }
    }
}

/// Copies that must have a record before it counts as written.
const MIN_INSYNC: &str = "min.insync.replicas";
/// Whether a copy that lacks records may lead when no other is there: what was acknowledged would be lost. Brokers do not
/// by default, and not every one lets a client say so for a new topic.
const UNCLEAN: &str = "unclean.leader.election.enable";
/// Where brokers keep the progress of groups and the state of transactions: as safe as our topics, or a commit waits
/// for the one broker that has them.
const OF_BROKERS: [&str; 2] = ["__consumer_offsets", "__transaction_state"];
/// As many copies as are worth it by default.
const COPIES: i32 = 3;

/// Room for headers, key and the frame around a record.
const OVERHEAD_BYTES: usize = 100_000;

/// What a topic should be.
///
/// # Errors
/// [`LogError::Refused`] where the file's retention cannot be read.
pub fn wanted(
    spec: &TopicSpec,
    settings: &TopicSettings,
    prefix: &str,
    brokers: i32,
) -> Result<Wanted, LogError> {
    let days = spec.retention.strip_suffix('d').and_then(|days| days.parse::<i64>().ok());
    let retention_ms = match (spec.retention.as_str(), days) {
        ("forever", _) => -1,
        (_, Some(days)) => days * 86_400_000,
        (other, None) => {
            return Err(LogError::Refused(format!(
                "topics/{}.toml: retention is '{other}': 'forever', or days as '7d'",
                spec.short
            )));
        }
    };
    let replication = settings.replication.unwrap_or(brokers.clamp(1, COPIES));
    let min_insync = settings.min_insync.unwrap_or(leaves_one_away(replication));
    if replication < 1 || min_insync < 1 || min_insync > replication {
        return Err(LogError::Refused(format!(
            "{replication} copies of which {min_insync} must have a record cannot be: set replication to 1 or more, \
             and min_insync to 1 or more and at most as many"
        )));
    }
    let cleanup = match spec.cleanup {
        Cleanup::Delete => "delete",
        Cleanup::Compact => "compact",
    };
    let is_registry = spec.short == Topic::Registry.short();
    Ok(Wanted {
        name: format!("{prefix}{}", spec.name),
        partitions: settings.partitions.filter(|_| !is_registry).unwrap_or(spec.partitions),
        replication,
        is_asked: settings.replication.is_some(),
        config: BTreeMap::from([
            ("cleanup.policy", cleanup.to_owned()),
            ("retention.ms", retention_ms.to_string()),
            ("retention.bytes", "-1".to_owned()),
            (MIN_INSYNC, min_insync.to_string()),
            ("max.message.bytes", (RECORD_BYTES_MAX + OVERHEAD_BYTES).max(1_048_588).to_string()),
            ("message.timestamp.type", "CreateTime".to_owned()),
        ]),
    })
}

/// How many copies must have a record so that work goes on while one of them is away.
fn leaves_one_away(copies: i32) -> i32 {
    (copies - 1).max(1)
}

/// Compares, without IO.
pub fn compare(wanted: &[Wanted], found: &BTreeMap<String, TopicState>) -> Vec<Difference> {
    let mut differences = Vec::new();
    let mut few: BTreeMap<(i32, i32), Vec<String>> = BTreeMap::new();
    for topic in wanted {
        match found.get(&topic.name) {
            None => differences.push(Difference::Missing(topic.clone())),
            Some(state) => {
                compare_one(topic, state, &mut differences);
                if state.replication < topic.replication && !topic.is_asked {
                    few.entry((state.replication, topic.replication)).or_default().push(topic.name.clone());
                }
            }
        }
    }
    differences.extend(few.into_iter().map(|((are, could), topics)| {
        let reason = few_copies(are, could) + ", then p2engine topics apply for min.insync.replicas";
        Difference::Hint { topics, reason }
    }));
    differences
}

fn few_copies(are: i32, could: i32) -> String {
    let copies = if are == 1 { "copy" } else { "copies" };
    format!(
        "each partition has {are} {copies}, and there are brokers for {could}: add some with kafka-reassign-partitions"
    )
}

/// What the brokers keep for themselves with fewer copies than they could. Where they do not show it, nothing is said.
fn hint_of_brokers(listed: &BTreeMap<String, (i32, i32)>, could: i32) -> Option<Difference> {
    let few = OF_BROKERS.into_iter().filter_map(|name| Some((name, listed.get(name)?.1)));
    let few: Vec<(&str, i32)> = few.filter(|(_, copies)| *copies < could).collect();
    let least = few.iter().map(|(_, copies)| *copies).min()?;
    Some(Difference::Hint {
        topics: few.into_iter().map(|(name, _)| name.to_owned()).collect(),
        reason: format!(
            "{}; while the broker that has one is away, its groups and transactions wait",
            few_copies(least, could)
        ),
    })
}

fn compare_one(wanted: &Wanted, state: &TopicState, differences: &mut Vec<Difference>) {
    let topic = wanted.name.clone();
    if state.partitions != wanted.partitions {
        differences.push(Difference::Refused {
            topic: topic.clone(),
            reason: format!(
                "it has {} partitions, {} are wanted: another number would send keys to other partitions; set \
                 partitions to {} if it is meant, or copy the topics with p2engine topics copy",
                state.partitions, wanted.partitions, state.partitions
            ),
        });
    }
    if state.replication < wanted.replication && wanted.is_asked {
        differences.push(Difference::Refused {
            topic: topic.clone(),
            reason: format!(
                "its partitions have {} copies, {} are wanted: add copies with kafka-reassign-partitions, or set \
                 replication to {} if it is meant",
                state.replication, wanted.replication, state.replication
            ),
        });
    }
    if let Some(is) = state.config.get(UNCLEAN).filter(|is| *is != "false") {
        let (is, wanted) = (is.clone(), "false".to_owned());
        differences.push(Difference::Setting { topic: topic.clone(), key: UNCLEAN, is, wanted });
    }
    for (key, value) in &wanted.config {
        let Some(is) = state.config.get(*key) else { continue };
        // Where more copies must have a record than there are, every record is refused.
        let most = leaves_one_away(state.replication).to_string();
        let has_few = *key == MIN_INSYNC && state.replication < wanted.replication;
        let value = if has_few && is_less(key, &most, value) { &most } else { value };
        if is == value {
            continue;
        }
        if *key == "cleanup.policy" {
            differences.push(Difference::Refused {
                topic: topic.clone(),
                reason: format!(
                    "cleanup.policy is {is}, {value} is wanted: to change it deletes records or keeps what should \
                     go; if that is meant, set it with kafka-configs"
                ),
            });
        } else if is_less(key, is, value) {
            let (is, wanted) = (is.clone(), value.clone());
            differences.push(Difference::Setting { topic: topic.clone(), key, is, wanted });
        }
    }
}

/// Whether a setting keeps less, or less safely, than is wanted. More than is wanted is left alone.
fn is_less(key: &str, is: &str, wanted: &str) -> bool {
    match (is.parse::<i64>(), wanted.parse::<i64>()) {
        (Ok(is), Ok(wanted)) if key.starts_with("retention.") => is >= 0 && (wanted < 0 || is < wanted),
        (Ok(is), Ok(wanted)) => is < wanted,
        _ => is != wanted,
    }
}

/// What differs at the broker from `topics/*.toml`.
///
/// # Errors
/// [`LogError::Unavailable`] where no broker answers, [`LogError::Refused`] for settings and credentials.
pub async fn diff(config: &KafkaConfig, settings: &TopicSettings) -> Result<Vec<Difference>, LogError> {
    Ok(Admin::new(config, settings).await?.look().await?.0)
}

/// Creates what is missing and changes what differs; doing it again changes nothing. Returns what was done.
///
/// # Errors
/// As [`diff`]; [`LogError::Refused`], with nothing changed, where something cannot be changed in place.
pub async fn apply(config: &KafkaConfig, settings: &TopicSettings) -> Result<Vec<Difference>, LogError> {
    let admin = Admin::new(config, settings).await?;
    let (differences, found) = admin.look().await?;
    let refused: Vec<String> = differences
        .iter()
        .filter(|one| matches!(one, Difference::Refused { .. }))
        .map(ToString::to_string)
        .collect();
    if !refused.is_empty() {
        return Err(LogError::Refused(refused.join("\n")));
    }
    admin.create(&differences).await?;
    admin.alter(&differences, &found).await?;
    admin.wait_for(&differences).await?;
    Ok(differences)
}

/// The topics as the broker has them, by name; those that are missing are left out.
///
/// # Errors
/// As [`diff`].
pub async fn describe(config: &KafkaConfig) -> Result<BTreeMap<String, TopicState>, LogError> {
    Admin::new(config, &TopicSettings::default()).await?.describe().await
}

struct Admin {
    config: KafkaConfig,
    client: AdminClient<Context>,
    context: Context,
    options: AdminOptions,
    names: Vec<String>,
    wanted: Vec<Wanted>,
}

/// (brokers, name → (partitions, copies)).
type Listing = (i32, BTreeMap<String, (i32, i32)>);

impl Admin {
    async fn new(config: &KafkaConfig, settings: &TopicSettings) -> Result<Admin, LogError> {
        config.check()?;
        let context = Context::default();
        let made = AdminClient::from_config_and_context(&config.admin(), context.clone());
        let client = made.map_err(|error| config::property(&error))?;
        let longest = Duration::from_millis(u64::from(config.request_timeout_ms));
        let names = Names::new(&config.prefix);
        let mut admin = Admin {
            config: config.clone(),
            client,
            context,
            options: AdminOptions::new().request_timeout(Some(longest)).operation_timeout(Some(longest)),
            names: Topic::ALL.into_iter().map(|topic| names.of(topic).to_owned()).collect(),
            wanted: Vec::new(),
        };
        let (brokers, listed) = admin.list().await?;
        // Where nobody says how many there shall be, those that are there are meant.
        let there = listed.get(names.of(Topic::Inbox)).copied();
        let settings =
            &TopicSettings { partitions: settings.partitions.or(there.map(|there| there.0)), ..*settings };
        // A broker that is away at the moment is not listed, and its copies are still wanted.
        let brokers = brokers.max(there.map_or(0, |there| there.1));
        for spec in p2_stream::topics::specs().map_err(LogError::Refused)? {
            admin.wanted.push(wanted(&spec, settings, &config.prefix, brokers)?);
        }
        Ok(admin)
    }

    async fn list(&self) -> Result<Listing, LogError> {
        let config = self.config.clone();
        blocking(move || {
            use rdkafka::consumer::Consumer as _;
            let client = reader::asker(&config, "read_uncommitted")?;
            crate::log::partition_counts(&config, &client)?;
            let longest = Duration::from_millis(u64::from(config.request_timeout_ms));
            let metadata = client.fetch_metadata(None, longest).map_err(|error| away("topics", &error))?;
            let mut found = BTreeMap::new();
            for topic in metadata.topics().iter().filter(|topic| topic.error().is_none()) {
                let copies = topic.partitions().iter().map(|one| one.replicas().len()).min().unwrap_or(0);
                let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
                found.insert(topic.name().to_owned(), (count(topic.partitions().len()), count(copies)));
            }
            Ok((i32::try_from(metadata.brokers().len()).unwrap_or(1), found))
        })
        .await
    }

    async fn look(&self) -> Result<(Vec<Difference>, BTreeMap<String, TopicState>), LogError> {
        let (brokers, listed) = self.list().await?;
        let found = self.states(&listed).await?;
        let mut differences = compare(&self.wanted, &found);
        differences.extend(hint_of_brokers(&listed, brokers.clamp(1, COPIES)));
        Ok((differences, found))
    }

    async fn describe(&self) -> Result<BTreeMap<String, TopicState>, LogError> {
        let (_, listed) = self.list().await?;
        self.states(&listed).await
    }

    async fn states(
        &self,
        listed: &BTreeMap<String, (i32, i32)>,
    ) -> Result<BTreeMap<String, TopicState>, LogError> {
        let there: Vec<&String> = self.names.iter().filter(|name| listed.contains_key(*name)).collect();
        let mut found = BTreeMap::new();
        if there.is_empty() {
            return Ok(found);
        }
        let resources: Vec<ResourceSpecifier<'_>> =
            there.iter().map(|name| ResourceSpecifier::Topic(name.as_str())).collect();
        let answers = self.client.describe_configs(&resources, &self.options).await;
        let answers = answers.map_err(|error| self.refused_or_away("settings of topics", &error))?;
        for (name, answer) in there.into_iter().zip(answers) {
            let resource = answer.map_err(|code| away(&format!("settings of {name}"), &code))?;
            let (partitions, replication) = listed.get(name).copied().unwrap_or_default();
            let mut state = TopicState { partitions, replication, ..TopicState::default() };
            for entry in resource.entries {
                let Some(value) = entry.value else { continue };
                if entry.source == ConfigSource::DynamicTopic {
                    state.own.insert(entry.name.clone(), value.clone());
                }
                state.config.insert(entry.name, value);
            }
            found.insert(name.clone(), state);
        }
        Ok(found)
    }

    fn refused_or_away(&self, what: &str, error: &dyn fmt::Display) -> LogError {
        self.context.refusal().map_or_else(|| away(what, error), LogError::Refused)
    }

    async fn create(&self, differences: &[Difference]) -> Result<(), LogError> {
        let missing = differences.iter().filter_map(|one| match one {
            Difference::Missing(wanted) => Some(wanted),
            _ => None,
        });
        let topics: Vec<NewTopic<'_>> = missing
            .map(|wanted| {
                let topic = NewTopic::new(
                    &wanted.name,
                    wanted.partitions,
                    TopicReplication::Fixed(wanted.replication),
                );
                wanted.config.iter().fold(topic, |topic, (key, value)| topic.set(key, value))
            })
            .collect();
        if topics.is_empty() {
            return Ok(());
        }
        let answers = self.client.create_topics(&topics, &self.options).await;
        for answer in answers.map_err(|error| self.refused_or_away("creating topics", &error))? {
            match answer {
                // Somebody else was as quick: the next look says whether it is what is wanted.
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((name, RDKafkaErrorCode::InvalidReplicationFactor)) => {
                    return Err(LogError::Refused(format!(
                        "{name} cannot be created: fewer brokers than copies; set replication to the number of \
                         brokers or start more"
                    )));
                }
                Err((name, code)) => {
                    return Err(LogError::Refused(format!("{name} cannot be created: {code}")));
                }
            }
        }
        Ok(())
    }

    /// The request replaces all settings that were made on a topic, so those that stay are sent again.
    async fn alter(
        &self,
        differences: &[Difference],
        found: &BTreeMap<String, TopicState>,
    ) -> Result<(), LogError> {
        let mut changed: BTreeMap<&str, BTreeMap<&str, &str>> = BTreeMap::new();
        for one in differences {
            let Difference::Setting { topic, key, wanted, .. } = one else { continue };
            let own = || found.get(topic).into_iter().flat_map(|state| &state.own);
            let settings = changed
                .entry(topic)
                .or_insert_with(|| own().map(|(key, value)| (key.as_str(), value.as_str())).collect());
            settings.insert(key, wanted);
        }
        if changed.is_empty() {
            return Ok(());
        }
        let requests = changed.iter().map(|(topic, settings)| {
            let request = AlterConfig::new(ResourceSpecifier::Topic(topic));
            settings.iter().fold(request, |request, (key, value)| request.set(key, value))
        });
        let requests: Vec<AlterConfig<'_>> = requests.collect();
        let answers = self.client.alter_configs(&requests, &self.options).await;
        for answer in answers.map_err(|error| self.refused_or_away("settings of topics", &error))? {
            answer.map_err(|(topic, code)| {
                LogError::Refused(format!("settings of {topic:?} are not accepted: {code}"))
            })?;
        }
        Ok(())
    }

    /// Waits until what was created can be seen by others.
    async fn wait_for(&self, differences: &[Difference]) -> Result<(), LogError> {
        let is_missing = |one: &Difference| matches!(one, Difference::Missing(_));
        if !differences.iter().any(is_missing) {
            return Ok(());
        }
        for _ in 0..100 {
            let (_, listed) = self.list().await?;
            if self.names.iter().all(|name| listed.contains_key(name)) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(LogError::Unavailable("topics were created, but the brokers do not show them yet".to_owned()))
    }
}

fn away(what: &str, error: &dyn fmt::Display) -> LogError {
    LogError::Unavailable(format!("{what}: {error}"))
}
