//! The image and the manifests on the real thing: a Docker Engine of the tests' own, docker-compose, the schemas of
//! Kubernetes.

mod compose;
mod engine;
mod image;
mod life;
mod manifests;
mod network;
mod runtime;
mod state;
