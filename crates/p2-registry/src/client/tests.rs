use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

fn config(url: &str) -> RegistryConfig {
    RegistryConfig { url: url.to_owned(), ..RegistryConfig::default() }
}

/// A server that answers every request with this, and gives the request's head.
async fn answering(status: &'static str, body: &'static str) -> (String, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/api/", listener.local_addr().unwrap());
    let served = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        let is_whole = |request: &[u8]| {
            let text = String::from_utf8_lossy(request).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            length.is_none_or(|length| body.len() >= length.parse().unwrap())
        };
        while !is_whole(&request) {
            socket.read_buf(&mut request).await.unwrap();
        }
        let length = body.len();
        let answer =
            format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
        socket.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(request).unwrap()
    });
    (url, served)
}

async fn registering(status: &'static str, body: &'static str) -> Result<u32, RegistryError> {
    let (url, served) = answering(status, body).await;
    let answer = RegistryClient::new(config(&url)).unwrap().register("s-value", "{}").await;
    served.await.unwrap();
    answer
}

#[tokio::test]
async fn a_schema_is_posted_to_its_subject_with_the_users_credentials() {
    let (url, served) = answering("200 OK", r#"{"id": 12}"#).await;
    let with = |user: &str, password: &str| RegistryConfig {
        user: Some(user.to_owned()),
        password: Some(password.to_owned()),
        ..config(&url)
    };
    let client = RegistryClient::new(with("me", "secret")).unwrap();
    assert_eq!(client.register("p2.inbox.v1-value", r#"{"a": 1}"#).await, Ok(12));
    let request = served.await.unwrap();
    assert!(request.starts_with("POST /api/subjects/p2.inbox.v1-value/versions HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("authorization: Basic bWU6c2VjcmV0\r\n"), "{request}");
    assert!(request.ends_with(r#"{"schema":"{\"a\": 1}"}"#), "{request}");
}

#[tokio::test]
async fn credentials_in_the_url_are_used_and_never_shown() {
    let (url, served) = answering("200 OK", r#"{"schema": "\"int\""}"#).await;
    let client = RegistryClient::new(config(&url.replace("http://", "http://me:secret@"))).unwrap();
    assert_eq!(client.schema(3).await, Ok(Some("\"int\"".to_owned())));
    let request = served.await.unwrap();
    assert!(request.starts_with("GET /api/schemas/ids/3 HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("authorization: Basic bWU6c2VjcmV0\r\n"), "{request}");
    let away = client.schema(3).await.unwrap_err();
    assert!(matches!(away, RegistryError::Unavailable { .. }), "{away}");
    let shown = format!("{client:?} {away}");
    assert!(!shown.contains("secret"), "{shown}");
}

#[tokio::test]
async fn an_incompatible_subject_is_one_clear_sentence_with_the_mend() {
    let said = r#"{"error_code": 409, "message": "Schema being registered is incompatible"}"#;
    let refused = registering("409 Conflict", said).await.unwrap_err().to_string();
    assert!(refused.contains("'s-value'") && refused.contains("BACKWARD"), "{refused}");
    assert!(refused.ends_with("(Schema being registered is incompatible)"), "{refused}");
}

#[tokio::test]
async fn what_waiting_mends_is_told_from_what_it_does_not() {
    let is_transient = |error: &RegistryError| matches!(error, RegistryError::Unavailable { .. });
    for (status, transient, word) in [
        ("503 Service Unavailable", true, "503"),
        ("429 Too Many Requests", true, "429"),
        ("401 Unauthorized", false, "schema_registry.user"),
        ("404 Not Found", false, "schema_registry.url"),
        ("422 Unprocessable Entity", false, "422"),
    ] {
        let error = registering(status, "{}").await.unwrap_err();
        assert_eq!(is_transient(&error), transient, "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
    let other = registering("200 OK", "<html>").await.unwrap_err();
    assert!(!is_transient(&other) && other.to_string().contains("is no schema registry"), "{other}");
}

#[tokio::test]
async fn an_id_of_another_kind_of_schema_or_of_none_is_none() {
    for (status, body) in [
        ("404 Not Found", r#"{"error_code": 40403, "message": "not found"}"#),
        ("200 OK", r#"{"schema": "syntax = proto3", "schemaType": "PROTOBUF"}"#),
    ] {
        let (url, served) = answering(status, body).await;
        assert_eq!(RegistryClient::new(config(&url)).unwrap().schema(1).await, Ok(None), "{body}");
        served.await.unwrap();
    }
    let (url, served) = answering("404 Not Found", "<html>no such page</html>").await;
    let other = RegistryClient::new(config(&url)).unwrap().schema(1).await.unwrap_err();
    assert!(other.to_string().contains("schema_registry.url"), "who answers is no registry: {other}");
    served.await.unwrap();
}

#[test]
fn an_address_that_is_none_is_refused_at_once() {
    for url in ["", "registry:8081", "localhost", "ftp://x", "mailto:a@b"] {
        let error = RegistryClient::new(config(url)).unwrap_err().to_string();
        assert!(error.starts_with("schema_registry: the url"), "{url}: {error}");
    }
    let pem = Some("no certificate".to_owned());
    let config = RegistryConfig { ca_pem: pem, ..config("https://x") };
    assert!(RegistryClient::new(config).is_err());
}
