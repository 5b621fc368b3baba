FROM node:24-slim AS build
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci --no-audit --no-fund
COPY tsconfig.json tsconfig.build.json ./
COPY src ./src
COPY workers ./workers
RUN npm run build && npm prune --omit=dev --no-audit --no-fund

FROM node:24-slim
RUN apt-get update \
  && apt-get install -y --no-install-recommends tini \
  && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY --from=build /app/node_modules ./node_modules
COPY --from=build /app/dist ./dist
COPY package.json quartet.config.json ./
# Every address of the container: the gateway refuses that without QUARTET_AUTH, unless QUARTET_ALLOW_ANONYMOUS=1 says
# that whoever can reach the published port may use it.
ENV NODE_ENV=production HOST=0.0.0.0
EXPOSE 3000
USER node
# For the http role; where a container runs without it, disable the check.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s \
  CMD ["node", "-e", "fetch(`http://127.0.0.1:${process.env.PORT || 3000}/readyz`).then((r) => process.exit(r.ok ? 0 : 1), () => process.exit(1))"]
# tini reaps orphans and passes signals on: Node.js does neither well as process 1.
ENTRYPOINT ["tini", "--"]
CMD ["node", "dist/src/main.js"]
