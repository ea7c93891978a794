//! The token endpoint of a remote API of a run, and what is wrong with it and its tokens. A source that wants tokens has one of its
//! own, or shares that of its account.

use gapless_simulators::remote::Request;
use gapless_simulators::remote::oauth::Issuer;

use super::api::Answer;
use super::clock::truth;
use super::described::Described;
use super::rng::Rng;

/// How a source comes by its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogIn {
    /// The API that gives them.
    pub no: usize,
    /// How long they live.
    pub life_ms: i64,
}

impl LogIn {
    /// That of a source, where it has any.
    pub(super) fn draw(described: &Described, rng: &mut Rng) -> Option<Self> {
        let life_ms = *rng.pick(&[2, 5, 20]) * described.interval_ms;
        rng.one_in(3).then_some(Self { no: described.no, life_ms })
    }

    /// The calls that it takes besides, in the time of a rate: for tokens, and once more with another one.
    pub(super) fn calls(self, per_ms: i64) -> u32 {
        u32::try_from(2 * (per_ms / self.life_ms) + 12).expect("some dozens")
    }

    /// What a description says of it.
    pub(super) fn describe(self) -> String {
        let no = self.no;
        format!(
            "\n[auth.oauth2]\ntoken_url = \"http://api{no}/token\"\nclient_id = \"gapless\"\nclient_secret = \"{}\"\n",
            secret(no)
        )
    }
}

fn secret(no: usize) -> String {
    format!("secret-{no}")
}

/// See the module's text.
#[derive(Debug)]
pub struct Door {
    /// Gives the tokens.
    pub issuer: Issuer,
    /// It gives none until then, in ms of the run.
    pub shut_until_ms: u64,
    /// No token is good until then.
    pub vain_until_ms: u64,
}

impl Door {
    /// One that gives tokens which live so long.
    pub(super) fn new(log_in: LogIn) -> Self {
        let issuer = Issuer::new("gapless", &secret(log_in.no), log_in.life_ms);
        Self { issuer, shut_until_ms: 0, vain_until_ms: 0 }
    }

    /// Nothing is wrong with it any more.
    pub(super) const fn make_good(&mut self) {
        (self.shut_until_ms, self.vain_until_ms) = (0, 0);
    }

    /// Whether it admits a request.
    pub(super) fn admits(&mut self, request: &Request<'_>, at_ms: u64) -> bool {
        self.issuer.admits(request, truth(at_ms)) && at_ms >= self.vain_until_ms
    }

    /// What it answers who asks for a token.
    pub(super) fn answer(&mut self, request: &Request<'_>, at_ms: u64, rng: &mut Rng) -> Answer {
        if at_ms < self.shut_until_ms {
            let (status, body) =
                *rng.pick(&[(503, ""), (500, "a fault"), (400, "{}"), (200, "<html>later</html>")]);
            return Answer { status, body: body.to_owned(), is_garbled: status == 200, ..Answer::default() };
        }
        let (status, body) = self.issuer.answer(request, truth(at_ms)).unwrap_or_default();
        Answer { status, body, ..Answer::default() }
    }
}

/// The token that a request goes out with.
pub(super) fn borne(request: &Request<'_>) -> Option<String> {
    let text = request.header("authorization")?;
    text.strip_prefix("Bearer ").map(str::to_owned)
}

/// The token that an answer gives.
pub(super) fn given(body: &str) -> Option<String> {
    let json: serde_json::Value = serde_json::from_str(body).ok()?;
    json["access_token"].as_str().map(str::to_owned)
}
