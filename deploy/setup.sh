#!/usr/bin/env bash
# Set up in Google Cloud all that the workflows and deploy/README.md use. Run it again at any time: what is there stays.
#
#   PROJECT=my-project REGION=europe-west1 BUCKET=my-bucket \
#   GITHUB_REPOSITORY=owner/name GITHUB_REPOSITORY_ID=123456 deploy/setup.sh
#
# Needs gcloud, signed in as an owner of the project, and a Python for the one API key. GITHUB_REPOSITORY_ID is what
# `gh api repos/owner/name --jq .id` prints: a name can be another repository's tomorrow, a number cannot. No account
# gets a key file.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${PROJECT:?} ${REGION:?} ${BUCKET:?} ${GITHUB_REPOSITORY:?} ${GITHUB_REPOSITORY_ID:?}"
if ! [[ $GITHUB_REPOSITORY_ID =~ ^[0-9]+$ ]]; then
  echo "setup: GITHUB_REPOSITORY_ID is '$GITHUB_REPOSITORY_ID', needs the repository's number" >&2
  exit 1
fi
export CLOUDSDK_CORE_PROJECT=$PROJECT CLOUDSDK_CORE_DISABLE_PROMPTS=1

there() { gcloud "$@" >/dev/null 2>&1; }
account() { echo "tweets-$1@$PROJECT.iam.gserviceaccount.com"; }
allow() { # allow MEMBER ROLE COMMAND...: let COMMAND, up to its resource, add the right
  echo "$1: $2 on ${*:3}"
  gcloud "${@:3}" --member="$1" --role="$2" >/dev/null # it prints the whole policy
}
on_project=(projects add-iam-policy-binding "$PROJECT" --condition=None)
on_bucket=(storage buckets add-iam-policy-binding "gs://$BUCKET")
on_images=(artifacts repositories add-iam-policy-binding tweets "--location=$REGION")
on_service=(run services add-iam-policy-binding tweets "--region=$REGION")
on_account=(iam service-accounts add-iam-policy-binding) # and which
on_secret=(secrets add-iam-policy-binding)               # and which

echo "== APIs"
gcloud services enable aiplatform.googleapis.com artifactregistry.googleapis.com cloudbuild.googleapis.com \
  iam.googleapis.com iamcredentials.googleapis.com run.googleapis.com secretmanager.googleapis.com sts.googleapis.com

echo "== bucket and registry"
there storage buckets describe "gs://$BUCKET" ||
  gcloud storage buckets create "gs://$BUCKET" --location="$REGION" --uniform-bucket-level-access \
    --public-access-prevention
there artifacts repositories describe tweets --location="$REGION" ||
  gcloud artifacts repositories create tweets --location="$REGION" --repository-format=docker
gcloud artifacts repositories set-cleanup-policies tweets --location="$REGION" --policy=deploy/cleanup.json \
  --no-dry-run >/dev/null

echo "== accounts, each for one thing"
for name in ci build deploy serve train; do
  there iam service-accounts describe "$(account $name)" || gcloud iam service-accounts create "tweets-$name"
done
for name in ci train; do # pull and push
  allow "serviceAccount:$(account $name)" roles/storage.objectUser "${on_bucket[@]}"
done
build=serviceAccount:$(account build)
allow "$build" roles/storage.objectViewer "${on_bucket[@]}"
allow "$build" roles/artifactregistry.writer "${on_images[@]}"
allow "$build" roles/logging.logWriter "${on_project[@]}"

echo "== secrets"
has_version() { there secrets versions describe latest --secret="$1"; }
for name in tweets-deploy-key tweets-api-keys; do
  there secrets describe $name || gcloud secrets create $name --replication-policy=automatic
done
has_version tweets-deploy-key || # the key with which a deployment checks
  python3 -m serve.keys | awk '/^key/ {printf "%s", $NF}' | gcloud secrets versions add tweets-deploy-key --data-file=-
hash=$(gcloud secrets versions access latest --secret=tweets-deploy-key |
  python3 -c 'import sys; from serve.keys import hashed; print(hashed(sys.stdin.read().strip()))')
known= # the hashes that the service has, also those of others
if has_version tweets-api-keys; then known=$(gcloud secrets versions access latest --secret=tweets-api-keys); fi
if [[ $known != *$hash* ]]; then
  printf '%s' "${known:+$known,}$hash" | gcloud secrets versions add tweets-api-keys --data-file=-
fi
allow "serviceAccount:$(account serve)" roles/secretmanager.secretAccessor "${on_secret[@]}" tweets-api-keys

echo "== the service, with Google's page until the first deployment, so that rights on it can be given"
there run services describe tweets --region="$REGION" ||
  gcloud run deploy tweets --image=us-docker.pkg.dev/cloudrun/container/hello --region="$REGION" \
    --service-account="$(account serve)" --no-allow-unauthenticated
allow allUsers roles/run.invoker "${on_service[@]}" # who has no API key gets no prediction: serve/keys.py

echo "== who deploys"
deploy=serviceAccount:$(account deploy)
allow "$deploy" roles/run.developer "${on_service[@]}"
allow "$deploy" roles/iam.serviceAccountUser "${on_account[@]}" "$(account serve)"
allow "$deploy" roles/iam.serviceAccountUser "${on_account[@]}" "$(account build)"
allow "$deploy" roles/cloudbuild.builds.editor "${on_project[@]}"
allow "$deploy" roles/artifactregistry.reader "${on_images[@]}"
allow "$deploy" roles/storage.objectViewer "${on_bucket[@]}"
allow "$deploy" roles/secretmanager.secretAccessor "${on_secret[@]}" tweets-deploy-key

echo "== GitHub signs in: jobs of this repository as ci, those in its environment production as deploy"
in_pool=(--location=global --workload-identity-pool=github)
there iam workload-identity-pools describe github --location=global ||
  gcloud iam workload-identity-pools create github --location=global
mapping=google.subject=assertion.sub,attribute.repository_id=assertion.repository_id
from_here="assertion.repository_id == '$GITHUB_REPOSITORY_ID'"
issuer=--issuer-uri=https://token.actions.githubusercontent.com
there iam workload-identity-pools providers describe ci "${in_pool[@]}" ||
  gcloud iam workload-identity-pools providers create-oidc ci "${in_pool[@]}" "$issuer" \
    --attribute-mapping="$mapping" --attribute-condition="$from_here"
# An attribute that no other provider gives: a token without the environment cannot have it.
there iam workload-identity-pools providers describe production "${in_pool[@]}" ||
  gcloud iam workload-identity-pools providers create-oidc production "${in_pool[@]}" "$issuer" \
    --attribute-mapping="$mapping,attribute.environment=assertion.environment" \
    --attribute-condition="$from_here && assertion.environment == 'production'"
pool=$(gcloud iam workload-identity-pools describe github --location=global --format='value(name)')
jobs=principalSet://iam.googleapis.com/$pool
allow "$jobs/attribute.repository_id/$GITHUB_REPOSITORY_ID" roles/iam.workloadIdentityUser "${on_account[@]}" "$(account ci)"
allow "$jobs/attribute.environment/production" roles/iam.workloadIdentityUser "${on_account[@]}" "$(account deploy)"

echo "== the trigger: images for each commit on main that may change them"
there builds triggers describe tweets-images --region="$REGION" ||
  gcloud builds triggers create github --name=tweets-images --region="$REGION" --branch-pattern='^main$' \
    --repository="projects/$PROJECT/locations/$REGION/connections/github/repositories/tweets" \
    --build-config=deploy/cloudbuild.yaml --service-account="projects/$PROJECT/serviceAccounts/$(account build)" \
    --ignored-files='**/*.md,benchmarks/**,deploy/**,docs/**,experiments/**,repository/**,tests/**,tools/**'

cat <<END
== done. On GitHub, once:

gh variable set GCP_PROJECT --body $PROJECT
gh variable set GCP_REGION --body $REGION
gh variable set GCP_SERVICE_ACCOUNT --body $(account ci)
gh variable set GCP_WORKLOAD_IDENTITY_PROVIDER --body $pool/providers/ci
gh variable set GCP_DEPLOY_SERVICE_ACCOUNT --body $(account deploy)
gh variable set GCP_DEPLOY_IDENTITY_PROVIDER --body $pool/providers/production
END
