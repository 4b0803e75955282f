//! The user, from the cookie `identity`: taken by a middleware, kept in the
//! context, and handed to the business logic as an argument.
//!
//! `cargo run --features http --example user_identity`

/// The only code that puts a user into a context, and takes it out.
mod identity {
    use axum::http::{HeaderMap, StatusCode, header};
    use axum::response::{IntoResponse, Response};
    use axum::{extract::Request, middleware::Next};
    use quell::Context;
    use quell::http::RequestExt;

    struct User(String);

    pub(crate) fn context_with_user(ctx: &Context, name: &str) -> Context {
        ctx.with_value(User(name.to_string()))
    }

    pub(crate) fn user_from_context(ctx: &Context) -> Option<&str> {
        ctx.value::<User>().map(|user| user.0.as_str())
    }

    /// In production the cookie would be signed: anyone can write this one.
    fn user_in_cookie(headers: &HeaderMap) -> Option<&str> {
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|all| all.to_str().ok());
        cookies
            .flat_map(|all| all.split(';'))
            .find_map(|cookie| cookie.trim().strip_prefix("identity="))
            .filter(|name| !name.is_empty())
    }

    pub(crate) async fn middleware(request: Request, next: Next) -> Response {
        let Some(user) = user_in_cookie(request.headers()) else {
            return (StatusCode::UNAUTHORIZED, "unauthorized").into_response();
        };
        let ctx = context_with_user(&request.context(), user);
        next.run(request.with_context(ctx)).await
    }
}

use axum::http::{Request, StatusCode, header};
use axum::{Router, body::Body, middleware, routing::get};
use quell::http::{Client, Ctx, serve};
use quell::{Cancelled, Context};
use tokio::net::TcpListener;

/// The business logic gets its input as arguments, not through values of the context.
async fn greet(ctx: &Context, user: &str, data: &str) -> Result<String, Cancelled> {
    ctx.check()?;
    Ok(format!("hello {user}, about {data}"))
}

async fn handler(Ctx(ctx): Ctx, request: Request<Body>) -> Result<String, StatusCode> {
    // Without the middleware there is no user; that is a mistake in this program.
    let user = identity::user_from_context(&ctx).ok_or(StatusCode::INTERNAL_SERVER_ERROR)?;
    let data = request.uri().query().and_then(|query| query.strip_prefix("data="));
    let greeting = greet(&ctx, user, data.unwrap_or("nothing")).await;
    greeting.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
}

#[tokio::main]
async fn main() {
    let app = Router::new()
        .route("/", get(handler))
        .layer(middleware::from_fn(identity::middleware))
        .route("/forgotten", get(handler)); // after the layer, so outside it
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/?data=tea", listener.local_addr().expect("an address"));
    let (server, stop) = Context::background().with_cancel();
    let served = tokio::spawn(serve(&server, listener, app).into_future());

    let (ctx, client) = (Context::background(), Client::new());
    for cookie in [Some("theme=dark; identity=ann"), Some("theme=dark"), None] {
        let mut request = Request::get(&url);
        if let Some(cookie) = cookie {
            request = request.header(header::COOKIE, cookie);
        }
        let request = request.body(Body::empty()).expect("a request");
        let answer = client.send(&ctx, request).await.expect("an answer");
        let status = answer.status();
        let text = answer.into_body().text(1000).await.expect("text");
        println!("{}: {status}, {text}", cookie.unwrap_or("no cookie"));
    }
    let forgotten = url.replace("/?", "/forgotten?");
    let answer = client.get(&ctx, forgotten).await.expect("an answer");
    println!("no middleware: {}", answer.status());
    stop.cancel();
    served.await.expect("a server that does not panic");
}
