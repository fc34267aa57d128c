//! Makes a participant ready: package, party, user, rights. The same again changes nothing.

use serde::Serialize;

use crate::client::Client;
use crate::config::CantonConfig;
use crate::error::CantonError;

/// What a participant has now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bootstrapped {
    /// Its version.
    pub version: String,
    /// The engine's party.
    pub party: String,
    /// Whether the party was made just now.
    pub party_made: bool,
    /// The engine's user.
    pub user: String,
    /// Whether the user was made just now.
    pub user_made: bool,
    /// Bytes of the package that was uploaded; none: none was given.
    pub dar_bytes: Option<usize>,
}

/// Uploads the package, where one is given, and makes the party and the user that are not there yet.
///
/// # Errors
/// The participant's. What was done by then stays done; do it again.
pub async fn bootstrap(
    client: &Client,
    config: &CantonConfig,
    dar: Option<Vec<u8>>,
) -> Result<Bootstrapped, CantonError> {
    client.ready().await?;
    let version = client.version().await?;
    let dar_bytes = dar.as_ref().map(Vec::len);
    if let Some(bytes) = dar {
        client.upload_dar(bytes).await?;
    }
    let known = client.user_party(&config.user).await?;
    let (party, party_made) = match &known {
        Some(party) => (party.clone(), false),
        None => match client.parties(&config.party_hint).await?.into_iter().next() {
            Some(party) => (party, false),
            None => (client.allocate_party(&config.party_hint).await?, true),
        },
    };
    if known.is_none() {
        client.create_user(&config.user, &party).await?;
    }
    client.grant_act_as(&config.user, &party).await?;
    let user = config.user.clone();
    Ok(Bootstrapped { version, party, party_made, user, user_made: known.is_none(), dar_bytes })
}
