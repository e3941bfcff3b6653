// Elastic's OpAMP server for the tests of Adjutant: a second opinion on polling that shares nothing with opamp-go.
//
// It listens on loopback only and ends together with whoever holds its standard input. The first line on standard
// output is {"opamp":40001,"api":40002}. `GET /requests` on the second port shows every exchange from its point of view;
// a config is offered by its own `POST /api/agentConfigMap` on the first. See ../README.md.
'use strict';

const http = require('http');
const {MockOpAMPServer} = require('@elastic/mockopampserver');

// Numbers of 64 bits become numbers and bytes become hex, so that the rest is plain JSON.
function plain(key, value) {
    if (typeof value === 'bigint') return Number(value);
    if (value && value.type === 'Buffer') return Buffer.from(value.data).toString('hex');
    if (value instanceof Uint8Array) return Buffer.from(value).toString('hex');
    return value;
}

async function main() {
    const port = Number(process.argv[2] ?? 0);
    const badMode = process.argv[3];
    const server = new MockOpAMPServer({logLevel: 'fatal', hostname: '127.0.0.1', port, testMode: true, badMode});
    await server.start();
    const api = http.createServer((request, response) => {
        const known = request.method === 'GET' && request.url === '/requests';
        const requests = server.testGetRequests().map(({req, res, a2s, s2a, err}) => {
            return {headers: req.headers, status: res?.statusCode, a2s, s2a, error: err?.message};
        });
        response.writeHead(known ? 200 : 404, {'Content-Type': 'application/json'});
        response.end(JSON.stringify(known ? requests : {error: 'no such document'}, plain));
    });
    api.listen(0, '127.0.0.1', () => {
        console.log(JSON.stringify({opamp: Number(new URL(server.endpoint).port), api: api.address().port}));
    });
    process.stdin.on('end', () => process.exit(0)).resume();
}

main().catch((error) => {
    console.error('mockopampserver:', error);
    process.exit(1);
});
