// A host for the plugin's tests: node-llama-cpp with its prebuilt libraries, on the CPU.
//
// usage: node client.mjs NODE_LLAMA_CPP MODEL CONTEXT_SIZE THREADS [LORA]
//
// NODE_LLAMA_CPP is the installed package's dist/index.js: it lies in the cache, where an
// import by name from here would not look.
//
// Prints {"ready":true}, then answers each line {"tokens":[…],"n_predict":N,"n_probs":K} of
// stdin with {"tokens":[…],"top":[[[id,log-probability],…],…]}: the greedy continuation.

import {createInterface} from "node:readline";

const [library, modelPath, contextSize, threads, filePath] = process.argv.slice(2);
const {getLlama} = await import(library);
// "never": without its prebuilt libraries it would compile a llama.cpp of its own.
const llama = await getLlama({gpu: false, build: "never", skipDownload: true});
const model = await llama.loadModel({modelPath, gpuLayers: 0});
const lora = filePath ? {adapters: [{filePath}]} : undefined;
const context = await model.createContext({contextSize: Number(contextSize), threads: Number(threads), lora});
const sequence = context.getSequence();

// The whole distribution as the model computes it; the likeliest token comes first.
const generateNext = {probabilities: true, options: {temperature: 1, topK: 0, topP: 1, minP: 0}};

console.log(JSON.stringify({ready: true}));
for await (const line of createInterface({input: process.stdin})) {
    const request = JSON.parse(line);
    const answer = {tokens: [], top: []};
    await sequence.clearHistory();
    let next = request.tokens;
    while (answer.tokens.length < request.n_predict) {
        const output = await sequence.controlledEvaluate([...next.slice(0, -1), [next.at(-1), {generateNext}]]);
        const {probabilities} = output.at(-1).next;
        const token = probabilities.keys().next().value;
        if (model.isEogToken(token)) break;
        answer.tokens.push(token);
        answer.top.push([...probabilities].slice(0, request.n_probs).map(([id, p]) => [id, Math.log(p)]));
        next = [token];
    }
    console.log(JSON.stringify(answer));
}
await llama.dispose();
