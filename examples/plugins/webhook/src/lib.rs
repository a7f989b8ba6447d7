//! A processor that posts each batch to a URL as a JSON array.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use tailweir_guest::http::{Error, Request, Response};
use tailweir_guest::{Batch, Failure, Outcome};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    url: String,
    /// More headers, such as `Authorization`.
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

fn process(batch: &Batch, config: &Config) -> Result<Outcome, Failure> {
    let records: Vec<String> = batch.text().iter().map(str::to_owned).collect();
    let mut request = Request::post(&config.url)
        .with_header("Content-Type", "application/json")
        .with_header("Idempotency-Key", batch.id())
        .with_body(format!("[{}]", records.join(",")));
    for (name, value) in &config.headers {
        request = request.with_header(name, value);
    }
    match request.send() {
        Ok(response) => answer(&config.url, &response),
        Err(error @ Error::Transport(_)) => Err(Failure::retry(format!("{}: {error}", config.url))),
        Err(error) => Err(Failure::stop(error.to_string())),
    }
}

tailweir_guest::processor!(process, config_schema = include_str!("../config.schema.json"));

/// What a response means. A redirect is not followed: it may lead out of what was granted.
fn answer(url: &str, response: &Response) -> Result<Outcome, Failure> {
    let mut what = format!("{url} answered {}", response.status);
    match response.excerpt(200) {
        said if said.is_empty() => {}
        said => what = format!("{what}: {said}"),
    }
    match response.status {
        200..300 => Ok(Outcome::Done),
        429 | 500.. => {
            let seconds = response.header("Retry-After").and_then(|seconds| seconds.trim().parse().ok());
            Err(match seconds {
                Some(seconds) => Failure::retry_after(Duration::from_secs(seconds), what),
                None => Failure::retry(what),
            })
        }
        _ => Err(Failure::stop(what)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tailweir_guest::http::answer_with;

    fn check(status: u16, headers: &[(&str, &str)]) -> Result<Outcome, Failure> {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let response = Response { status, headers, body: b"so be it".to_vec() };
        answer_with(move |_| Ok(response.clone()));
        let config = Config { url: "http://hooks.example".into(), headers: BTreeMap::new() };
        process(&Batch::from_json(["1"]), &config)
    }

    #[test]
    fn the_request_is_an_array_with_an_idempotency_key() {
        let batch = Batch::from_json([r#"{"id":1}"#, r#"{ "id":2}"#]);
        let id = batch.id();
        answer_with(move |request| {
            assert_eq!((request.method(), request.url()), ("POST", "http://hooks.example/log"));
            assert_eq!(request.header("Idempotency-Key"), Some(&*id));
            assert_eq!(request.header("Authorization"), Some("Bearer x"));
            assert_eq!(request.body(), br#"[{"id":1},{ "id":2}]"#);
            Ok(Response { status: 200, headers: vec![], body: vec![] })
        });
        let headers = BTreeMap::from([("Authorization".to_owned(), "Bearer x".to_owned())]);
        assert_eq!(
            process(&batch, &Config { url: "http://hooks.example/log".into(), headers }),
            Ok(Outcome::Done)
        );
    }

    #[test]
    fn the_status_decides() {
        assert_eq!(check(204, &[]), Ok(Outcome::Done));
        let reason = "http://hooks.example answered 503: so be it";
        assert_eq!(check(503, &[]), Err(Failure::retry(reason)));
        assert_eq!(
            check(503, &[("retry-after", "7")]),
            Err(Failure::retry_after(Duration::from_secs(7), reason))
        );
        assert_eq!(check(503, &[("retry-after", "Fri, 31 Dec")]), Err(Failure::retry(reason)));
        assert!(matches!(check(429, &[]), Err(Failure::Retry { .. })));
        for status in [301, 400, 404] {
            assert!(matches!(check(status, &[]), Err(Failure::Stop(_))), "{status}");
        }
    }

    #[test]
    fn a_server_out_of_reach_is_tried_again_and_a_refused_request_is_not() {
        let config = Config { url: "http://hooks.example".into(), headers: BTreeMap::new() };
        answer_with(|_| Err(Error::Transport("connection refused".into())));
        assert!(matches!(process(&Batch::from_json(["1"]), &config), Err(Failure::Retry { .. })));
        answer_with(|_| Err(Error::Denied("http://hooks.example".into())));
        assert!(matches!(process(&Batch::from_json(["1"]), &config), Err(Failure::Stop(_))));
    }
}
