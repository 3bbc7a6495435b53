# The server's image with one release in it, for Cloud Run (terraform/environments/cloudrun, `release.baked`): it starts
# without a download, and the image's digest names the release too. `make images IMAGES=release RELEASE=DIRECTORY`
# verifies the release, copies it beside and builds:
#   --build-arg SERVING_IMAGE=…/slipway-serving@sha256:… --build-arg RELEASE_DIGEST=sha256:…
# It listens on 8080, or where PORT says; who starts it adds `--model NAME`.
ARG SERVING_IMAGE
FROM ${SERVING_IMAGE}
# root's, so that the server cannot change what it serves
COPY --chown=0:0 release /mnt/models
# by the server's own user and code: what cannot be read or is another release ends the build here
USER 65532:65532
ARG RELEASE_DIGEST
RUN ["python", "-c", "\
import os, sys; \
from pathlib import Path; \
from serving.release import verify_release; \
found = verify_release(Path('/mnt/models')).digest; \
found == os.environ['RELEASE_DIGEST'] or sys.exit(f'the release is {found}')"]
ENTRYPOINT ["python", "-m", "serving", "--release", "/mnt/models"]
ARG SOURCE=""
ARG REVISION=""
ARG VERSION=""
LABEL org.opencontainers.image.title="slipway-release" \
      org.opencontainers.image.description="One release in the model server of Slipway" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.version="${VERSION}" \
      dev.slipway.release="${RELEASE_DIGEST}"
