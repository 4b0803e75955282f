//! The guides, one per page. They are the files in `docs/`; every example in them is compiled as a
//! test, and run if it ends by itself.
//!
//! | you want to | read |
//! |---|---|
//! | build a pipeline, choose its buffers, read its report | [`pipelines`] |
//! | come from Go | [`from_go`] |
//! | come from tokio, perhaps with a `CancellationToken` | [`from_tokio`] |
//! | check your own code | [`checker`], and [`scale`] for runs of hours |
//! | give each request a context | [`http`] |
//! | put a server under load | [`hit`] |
//! | know why quell is designed as it is | [`design`] |

// In the repository a guide's links point to other files. Here the same link names are defined
// before the file is included, and the first definition wins.

#[doc = "[limits]: crate::guide::pipelines#limits"]
#[doc = ""]
#[doc = include_str!("../docs/design.md")]
pub mod design {}

#[cfg(any(not(doctest), feature = "check"))]
#[doc = "[scale]: crate::guide::scale"]
#[doc = ""]
#[doc = include_str!("../docs/checker.md")]
pub mod checker {}

#[cfg(any(not(doctest), feature = "check"))]
#[doc = include_str!("../docs/scale.md")]
pub mod scale {}

#[doc = "[downcast]: crate::Cause::downcast_ref"]
#[doc = "[pipelines]: crate::guide::pipelines"]
#[doc = "[http]: crate::guide::http"]
#[doc = "[hit]: crate::guide::hit"]
#[doc = ""]
#[doc = include_str!("../docs/from-go.md")]
pub mod from_go {}

#[cfg(any(not(doctest), feature = "tokio-util"))]
#[doc = "[run]: crate::Context::run"]
#[doc = ""]
#[doc = include_str!("../docs/from-tokio.md")]
pub mod from_tokio {}

#[doc = "[checker]: crate::guide::checker"]
#[doc = ""]
#[cfg(any(not(doctest), all(feature = "http", feature = "check")))]
#[doc = include_str!("../docs/http.md")]
pub mod http {}

#[doc = "[errors]: crate::guide::from_go#errors-that--carries"]
#[doc = "[try_spawn]: crate::Group::try_spawn"]
#[doc = ""]
#[doc = include_str!("../docs/pipelines.md")]
pub mod pipelines {}

#[cfg(any(not(doctest), feature = "http"))]
#[doc = "[pipelines]: crate::guide::pipelines"]
#[doc = ""]
#[doc = include_str!("../docs/hit.md")]
pub mod hit {}
