//! A client of the collector's API, as a user's program would be one.

use serde_json::Value;

/// Talks to one collector with one token.
#[derive(Debug, Clone)]
pub struct Api {
    base: String,
    token: String,
}

/// One reading as the API tells it.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiReading {
    /// `site/device/channel`.
    pub series: String,
    /// Acquisition time, milliseconds since 1970.
    pub at_ms: i64,
    /// A number, a text or null.
    pub value: Value,
    /// Its quality's label.
    pub quality: String,
}

impl Api {
    /// A client of the collector at `base` (`http://host:port`).
    #[must_use]
    pub fn new(base: &str, token: &str) -> Self {
        Self { base: base.to_owned(), token: token.to_owned() }
    }

    /// Status and body of a GET, with headers given.
    ///
    /// # Errors
    /// The transport's words, where no answer came or it broke off.
    pub fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Result<(u16, String, String), String> {
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        let mut request = agent
            .get(format!("{}{path}", self.base))
            .header("Authorization", format!("Bearer {}", self.token));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut answer = request.call().map_err(|e| e.to_string())?;
        let tag = answer.headers().get("etag").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let body =
            answer.body_mut().with_config().limit(u64::MAX).read_to_string().map_err(|e| e.to_string())?;
        Ok((answer.status().as_u16(), body, tag))
    }

    /// Status and body of a POST without a body.
    ///
    /// # Errors
    /// The transport's words, where no answer came or it broke off.
    pub fn post(&self, path: &str) -> Result<(u16, String), String> {
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        let request = agent
            .post(format!("{}{path}", self.base))
            .header("Authorization", format!("Bearer {}", self.token));
        let mut answer = request.send_empty().map_err(|e| e.to_string())?;
        Ok((answer.status().as_u16(), answer.body_mut().read_to_string().map_err(|e| e.to_string())?))
    }

    /// Status and body of a DELETE.
    ///
    /// # Errors
    /// The transport's words, where no answer came or it broke off.
    pub fn delete(&self, path: &str) -> Result<(u16, String), String> {
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        let request = agent
            .delete(format!("{}{path}", self.base))
            .header("Authorization", format!("Bearer {}", self.token));
        let mut answer = request.call().map_err(|e| e.to_string())?;
        Ok((answer.status().as_u16(), answer.body_mut().read_to_string().map_err(|e| e.to_string())?))
    }

    /// The JSON of a GET that must be answered with 200.
    ///
    /// # Errors
    /// What came instead.
    pub fn get(&self, path: &str) -> Result<Value, String> {
        match self.get_with(path, &[])? {
            (200, body, _) => serde_json::from_str(&body).map_err(|e| format!("{path}: {e} in {body}")),
            (status, body, _) => Err(format!("{path}: {status} {body}")),
        }
    }

    /// The `items` of a list.
    ///
    /// # Errors
    /// What came instead.
    pub fn items(&self, path: &str) -> Result<Vec<Value>, String> {
        match self.get(path)?.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => Ok(items),
            other => Err(format!("{path}: no items but {other:?}")),
        }
    }

    /// Every reading of the series that match `selector`, from 1970 on.
    ///
    /// # Errors
    /// What came instead.
    pub fn readings(&self, selector: &str) -> Result<Vec<ApiReading>, String> {
        let path =
            format!("/api/v1/readings?series={selector}&from=1970-01-01T00:00:00Z&to=2100-01-01T00:00:00Z");
        let rows = self.items(&path)?;
        let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let reading = |row: &Value| {
            let at_ms = instant_ms(&row["at"])?;
            let (series, quality) = (text(row, "series"), text(row, "quality"));
            Ok(ApiReading { series, at_ms, value: row["value"].clone(), quality })
        };
        rows.iter().map(reading).collect()
    }
}

/// Milliseconds since 1970 of an RFC 3339 text in JSON.
///
/// # Errors
/// What stands there instead.
pub fn instant_ms(value: &Value) -> Result<i64, String> {
    let text = value.as_str().ok_or_else(|| format!("no instant but {value}"))?;
    text.parse::<gapless_common::time::Timestamp>().map(|t| t.0).map_err(|e| e.to_string())
}
