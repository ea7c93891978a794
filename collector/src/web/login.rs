//! Logging in to the page: the token goes into a cookie that scripts cannot read and other sites cannot send.

use axum::Form;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use maud::html;
use serde::Deserialize;

use super::document;
use crate::api::{ApiState, Problem, TOKEN_COOKIE, hash_token};

fn page(wrong: bool) -> Html<String> {
    let body = html! {
        main.login {
            h1 { "Gapless" }
            form method="post" action="/login" {
                label for="token" { "Token" }
                input id="token" name="token" type="password" autocomplete="current-password" required autofocus;
                @if wrong { p.problem role="alert" { "This token is not known." } }
                button type="submit" { "Log in" }
            }
            p.note { "The admin token lies in a file of the collector's data directory; its log names the file." }
        }
    };
    document("Gapless: log in", Some("/assets/login.js"), &body)
}

/// The form.
pub(super) async fn form() -> Html<String> {
    page(false)
}

/// What the form sends.
#[derive(Deserialize)]
pub(super) struct Login {
    token: String,
}

fn cookie(token: &str, age_s: u32) -> Option<HeaderValue> {
    let plain = token.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    let text = format!("{TOKEN_COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age={age_s}");
    plain.then(|| HeaderValue::from_str(&text).ok()).flatten()
}

/// A browser stays logged in for 30 days.
const COOKIE_AGE_S: u32 = 30 * 86_400;

/// Checks the token and sets the cookie.
pub(super) async fn submit(
    State(state): State<ApiState>,
    Form(login): Form<Login>,
) -> Result<Response, Problem> {
    let token = login.token.trim();
    let hash = hash_token(token);
    match cookie(token, COOKIE_AGE_S) {
        Some(cookie) if state.ask(move |store| store.token_name(&hash)).await?.is_some() => {
            Ok(([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response())
        }
        _ => Ok((StatusCode::UNAUTHORIZED, page(true)).into_response()),
    }
}

/// Forgets the cookie.
pub(super) async fn logout() -> Response {
    (cookie("", 0).map(|gone| [(header::SET_COOKIE, gone)]), Redirect::to("/login")).into_response()
}
