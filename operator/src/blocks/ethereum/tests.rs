//! Against a local server that answers whatever it likes.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;

use super::*;

/// A server that answers every request with what `answer` makes of its method. It ends with the test's process.
fn server(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/key-that-nobody-may-see", listener.local_addr().expect("a bound socket"));
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(mut stream), answer) = (stream, answer.clone()) else { continue };
            std::thread::spawn(move || {
                let mut request = Vec::new();
                let mut chunk = [0; 4096];
                loop {
                    let read = stream.read(&mut chunk).unwrap_or(0);
                    request.extend_from_slice(&chunk[..read]);
                    let text = String::from_utf8_lossy(&request);
                    if read == 0 || (text.contains("\r\n\r\n") && text.ends_with('}')) {
                        break;
                    }
                }
                let text = String::from_utf8_lossy(&request);
                let body = text.split("\r\n\r\n").nth(1).unwrap_or_default();
                let json: Value = serde_json::from_str(body).unwrap_or_default();
                let _ = stream.write_all(&answer(json["method"].as_str().unwrap_or_default()));
            });
        }
    });
    url
}

fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len()).into_bytes()
}

fn result(value: &Value) -> Vec<u8> {
    ok(&json!({ "jsonrpc": "2.0", "id": 1, "result": value }).to_string())
}

fn ask(urls: Vec<String>, finality: Finality, confirmations: u32) -> Result<u64, BlockError> {
    Ethereum::new(urls, 31_337, finality, confirmations).ask_all()
}

fn chain(method: &str) -> Vec<u8> {
    match method {
        "eth_chainId" => result(&json!("0x7a69")),
        "eth_blockNumber" => result(&json!("0x64")),
        _ => result(&json!({ "number": "0x5a" })),
    }
}

/// seed: 001-50
#[test]
fn final_safe_and_confirmed_blocks_are_read() {
    let url = server(chain);
    assert_eq!(ask(vec![url.clone()], Finality::Finalized, 0), Ok(90));
    assert_eq!(ask(vec![url.clone()], Finality::Safe, 0), Ok(90));
    assert_eq!(ask(vec![url.clone()], Finality::Latest, 12), Ok(88));
    assert_eq!(ask(vec![url], Finality::Latest, 1_000), Ok(0), "fewer blocks than confirmations: none counts");
}

/// An endpoint that is down is passed over and none is a fault without the url.
#[test]
fn an_endpoint_that_is_down_is_passed_over() {
    let dead = "http://127.0.0.1:9/secret-key".to_owned();
    assert_eq!(ask(vec![dead.clone(), server(chain)], Finality::Finalized, 0), Ok(90));
    let error = ask(vec![dead], Finality::Finalized, 0).unwrap_err();
    assert!(matches!(error, BlockError::Down(_)), "{error}");
    assert!(!error.to_string().contains("secret-key"), "an access key is in the message: {error}");
}

#[test]
fn hostile_answers_are_named_and_none_is_taken_for_a_height() {
    type Answer = fn(&str) -> Vec<u8>;
    let nonsense: [(&str, Answer); 9] = [
        ("no JSON", |_| ok("<html>")),
        ("neither result nor error", |_| ok("{}")),
        ("a number instead of a text", |_| result(&json!(31_337))),
        ("no digits", |_| result(&json!("0x"))),
        ("a sign", |_| result(&json!("0x+7a69"))),
        ("more than 64 bits", |_| result(&json!("0x1ffffffffffffffff"))),
        ("more than JSON carries", |_| result(&json!("0xffffffffffffffff"))),
        ("two megabytes", |_| ok(&"7".repeat(2 << 20))),
        ("a block without number", |method| match method {
            "eth_chainId" => result(&json!("0x7a69")),
            _ => result(&json!({ "hash": "0x00" })),
        }),
    ];
    for (what, answer) in nonsense {
        let error = ask(vec![server(answer)], Finality::Finalized, 0).expect_err(what);
        assert!(matches!(error, BlockError::Nonsense(_)), "{what}: {error}");
    }
    let down: [(&str, Answer); 4] = [
        ("an error", |_| ok(r#"{"error":{"code":-32000,"message":"limit exceeded"}}"#)),
        ("status 503", |_| b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec()),
        ("a connection that ends", |_| Vec::new()),
        ("no final block yet", |method| match method {
            "eth_chainId" => result(&json!("0x7a69")),
            _ => result(&Value::Null),
        }),
    ];
    for (what, answer) in down {
        let error = ask(vec![server(answer)], Finality::Finalized, 0).expect_err(what);
        assert!(matches!(error, BlockError::Down(_)), "{what}: {error}");
    }
    let other = ask(vec![server(|_| result(&json!("0x1")))], Finality::Finalized, 0);
    assert_eq!(other, Err(BlockError::OtherChain { found: 1, expected: 31_337 }));
}
